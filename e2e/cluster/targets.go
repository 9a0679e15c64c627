// Part pod-targets writes the pods to scrape to a file that Prometheus
// watches: Debian's Prometheus is built without discovery in Kubernetes. Pods
// say what to scrape by the usual annotations prometheus.io/scrape, /port and
// /path; they are listed once and then watched.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Prometheus takes up changes every 5 s at most; many pods change at once.
const settle = 100 * time.Millisecond

// group is one entry of a file_sd file.
type group struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

func podTargets() {
	kubeconfig := flag.String("kubeconfig", "", "path of the kubeconfig")
	file := flag.String("file", "", "path of the file to write")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	informer := factory.Core().V1().Pods().Informer()
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		log.Fatal(err)
	}
	factory.Start(nil)
	factory.WaitForCacheSync(nil)
	notify()
	written := ""
	for range changed {
		time.Sleep(settle)
		text := render(informer.GetStore().List())
		if text == written {
			continue
		}
		if err := replace(*file, text); err != nil {
			log.Fatal(err)
		}
		written = text
	}
}

// render gives the same text for the same pods.
func render(pods []any) string {
	groups := []group{}
	for _, item := range pods {
		if pod, ok := item.(*corev1.Pod); ok && isScraped(pod) {
			groups = append(groups, target(pod))
		}
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i].Targets[0] < groups[j].Targets[0] })
	text, err := json.Marshal(groups)
	if err != nil {
		log.Fatal(err)
	}
	return string(text)
}

func isScraped(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != "" &&
		pod.Annotations["prometheus.io/scrape"] == "true"
}

func target(pod *corev1.Pod) group {
	port := pod.Annotations["prometheus.io/port"]
	if port == "" {
		port = "80"
	}
	labels := map[string]string{"namespace": pod.Namespace, "pod": pod.Name}
	if path := pod.Annotations["prometheus.io/path"]; path != "" {
		labels["__metrics_path__"] = path
	}
	return group{Targets: []string{net.JoinHostPort(pod.Status.PodIP, port)}, Labels: labels}
}

// replace never shows a reader half a file.
func replace(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
