-- wrk script: POST one tools/call over and over, and look into every answer.
-- BEARER in the environment is the token to send. Prints one line:
--   RESULT ok=… bad=… sock=… p50_ms=… p99_ms=… dur=…      and, if any is bad, a sample of it
local body = '{"jsonrpc":"2.0","id":1,"method":"tools/call",' ..
             '"params":{"name":"echo0","arguments":{"text":"hello"}}}'
wrk.method, wrk.body = "POST", body
wrk.headers = {
  ["Content-Type"] = "application/json",
  ["Accept"] = "application/json, text/event-stream",
  ["Authorization"] = "Bearer " .. (os.getenv("BEARER") or "none"),
}

local threads = {}
function setup(thread) table.insert(threads, thread) end

function init() ok, bad, sample, formatted = 0, 0, "", wrk.format() end

function request() return formatted end

function response(status, _, text)
  if status == 200 and text and string.find(text, '"isError":false', 1, true) then
    ok = ok + 1
  else
    bad = bad + 1
    if sample == "" then sample = status .. " " .. string.sub(text or "", 1, 300) end
  end
end

function done(summary, latency)
  local all_ok, all_bad, shown = 0, 0, ""
  for _, thread in ipairs(threads) do
    all_ok, all_bad = all_ok + thread:get("ok"), all_bad + thread:get("bad")
    if shown == "" then shown = thread:get("sample") end
  end
  local e = summary.errors
  io.write(string.format("RESULT ok=%d bad=%d sock=%d p50_ms=%.3f p99_ms=%.3f dur=%.3f\n",
    all_ok, all_bad, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, summary.duration / 1e6))
  if all_bad > 0 then io.write("SAMPLE ", (shown:gsub("[\r\n]+", " ")), "\n") end
end
