-- Takes the revision under test off the traffic and rolls it back.

local revision = (obj.status or {}).canaryRevision
if revision == nil or revision == "" then
  error("this Canary has no revision under test")
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["sluice.dev/abort"] = revision
return obj
