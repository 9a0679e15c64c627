-- Health of a sluice.dev/Canary for Argo CD. Input: global `obj`. Output: a table with `status` and `message`.
-- Plain Lua 5.1 without the string library, as Argo CD runs the scripts of argocd-cm.
-- The conditions are kstatus-compatible; this script adds Suspended, which kstatus does not know.

local function health(status, message)
  return { status = status, message = message }
end

local status = obj.status or {}
local spec = obj.spec or {}
local generation = obj.metadata.generation

-- A status that speaks of an older spec, or of none, says nothing.
if status.observedGeneration == nil or status.observedGeneration == -1 then
  return health("Progressing", "waiting for the operator's first look")
end
if generation ~= nil and status.observedGeneration ~= generation then
  return health("Progressing", "waiting for the operator to see the changed spec")
end

local phase = status.phase or ""
local reason = status.reason or ""
local text = phase
if status.canaryWeight ~= nil and status.canaryWeight > 0 then
  text = text .. ", weight " .. status.canaryWeight .. " %"
end
if status.step ~= nil and status.step ~= "" then
  text = text .. ", step " .. status.step
end
if status.message ~= nil and status.message ~= "" then
  text = text .. ": " .. status.message
end

local ready = false
for _, condition in ipairs(status.conditions or {}) do
  -- A person has to act: the last release was rolled back, or the spec cannot be carried out.
  if condition.type == "Stalled" and condition.status == "True" then
    return health("Degraded", text)
  end
  if condition.type == "Ready" and condition.status == "True" then
    ready = true
  end
end

-- Somebody asked it to wait, and somebody has to say go on.
local waiting = { Waiting = true, WaitingPromotion = true }
local held = { Paused = true, PausedByManifest = true, Suspended = true }
if spec.suspend or waiting[phase] or held[reason] then
  return health("Suspended", text)
end
if phase == "Failed" then
  return health("Degraded", text)
end
if (phase == "Initialized" or phase == "Succeeded") and ready then
  return health("Healthy", text)
end
return health("Progressing", text)
