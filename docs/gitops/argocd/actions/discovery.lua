-- Which actions Argo CD offers for a Canary. Each writes one annotation with the revision that it is meant for, so that a
-- late click cannot act on the next release. Git does not hold these annotations, so no self-heal takes them back.

local status = obj.status or {}
local annotations = obj.metadata.annotations or {}
local revision = status.canaryRevision
local known = revision ~= nil and revision ~= ""
local running = known and (status.phase == "Progressing" or status.phase == "WaitingPromotion")
local paused = annotations["sluice.dev/pause"] ~= nil

local actions = {}
actions["promote"] = {
  disabled = not running,
  iconClass = "fa fa-fw fa-forward",
  displayName = "Promote",
}
actions["abort"] = {
  disabled = not running,
  iconClass = "fa fa-fw fa-undo",
  displayName = "Abort",
}
actions["pause"] = {
  disabled = not running or paused,
  iconClass = "fa fa-fw fa-pause",
  displayName = "Pause",
}
actions["resume"] = {
  disabled = not paused,
  iconClass = "fa fa-fw fa-play",
  displayName = "Resume",
}
actions["retry"] = {
  disabled = not (known and status.phase == "Failed"),
  iconClass = "fa fa-fw fa-redo",
  displayName = "Retry",
}
return actions
