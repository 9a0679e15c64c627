-- Lets a paused release go on.

if obj.metadata.annotations ~= nil then
  obj.metadata.annotations["sluice.dev/pause"] = nil
end
return obj
