-- Holds the revision under test at its weight until the action resume.

local revision = (obj.status or {}).canaryRevision
if revision == nil or revision == "" then
  error("this Canary has no revision under test")
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["sluice.dev/pause"] = revision
return obj
