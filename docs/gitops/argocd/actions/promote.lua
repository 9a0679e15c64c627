-- Promotes the revision under test now, without the remaining steps.

local revision = (obj.status or {}).canaryRevision
if revision == nil or revision == "" then
  error("this Canary has no revision under test")
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["sluice.dev/promote"] = revision
return obj
