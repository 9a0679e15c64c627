// Command pause holds a pod's namespaces open: it sleeps, reaps the orphans
// that a shared process namespace hands it, and ends when told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for got := range signals {
		if got != syscall.SIGCHLD {
			return
		}
		for reaped, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == nil && reaped > 0; {
			reaped, err = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
