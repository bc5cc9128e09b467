-- The recursor's side of "routed before answered": each answer that a rule could match goes to ipt_server as one datagram and
-- is let go only when the kernel has its addresses. Knows: PowerDNS's hooks, the datagram (docs/contracts.md, 5), the suffix
-- filter. Must not know: rules, exits.
--
-- Several ports of the daemon, because the recursor binds every query socket with SO_REUSEADDR to port 0: two in flight may share
-- one, and then one gets the other's verdict. The nonce tells them apart; a wrong one is asked again.
local ADDRESS, PORT, PORTS, TRIES, FAIL_OPEN = {{ r.hook.address | tojson }}, {{ r.hook.port }}, {{ r.hook.ports }}, {{ r.hook.tries }}, {{ 'true' if r.hook.fail == 'open' else 'false' }}
local FILTER = "/run/mrvpn-recursor/suffix.filter"
local LARGEST = 60000 -- bytes of a question

local ffi, bit = require("ffi"), require("bit")
local bxor, band, bor, rshift, tobit = bit.bxor, bit.band, bit.bor, bit.rshift, bit.tobit

local destinations = {}
for n = 0, PORTS - 1 do destinations[n] = newCA(ADDRESS .. ":" .. (PORT + n)) end
local anchor = {} -- its address makes nonces unique across the Lua states of the threads
local me = (tostring(anchor):match("0x0*(%x+)") or "0") .. string.format("%x", os.time() % 65536)
local sequence = 0

local A, AAAA, CNAME, DNAME, PTR, SVCB, HTTPS = pdns.A, pdns.AAAA, pdns.CNAME, 39, pdns.PTR, 64, 65
local wanted = {[A] = true, [AAAA] = true, [CNAME] = true, [DNAME] = true, [PTR] = true, [SVCB] = true, [HTTPS] = true}
local carries = {[A] = true, [AAAA] = true, [PTR] = true, [SVCB] = true, [HTTPS] = true}

-- The suffix filter: a hash table in a file that ipt_server writes, new file and rename, and that all threads map. Header of 16
-- 32-bit words: magic, mask, entries, superseded, ask-for-all. Slots of two words: fingerprint (odd, 0 = empty), hash.
ffi.cdef [[
int open(const char *, int, ...); int close(int); long lseek(int, long, int);
void *mmap(void *, size_t, int, int, int, long); int munmap(void *, size_t);
]]
local MAGIC = 0x4D525631
local header, slots, mask, base, length

local function map()
  local fd = ffi.C.open(FILTER, 0x80000) -- O_RDONLY | O_CLOEXEC
  if fd < 0 then return false end
  local size = ffi.C.lseek(fd, 0, 2)
  local p = ffi.C.mmap(nil, size, 1, 1, fd, 0) -- PROT_READ, MAP_SHARED
  ffi.C.close(fd)
  if ffi.cast("intptr_t", p) == -1 then return false end
  local words = ffi.cast("volatile uint32_t *", p)
  if size < 64 or words[0] ~= MAGIC then ffi.C.munmap(p, size) return false end
  if base then ffi.C.munmap(base, length) end
  base, length, header, slots, mask = p, size, words, ffi.cast("uint32_t *", p) + 16, tonumber(words[1])
  return true
end

local function present(h1, h2)
  h1 = bxor(h1, rshift(h1, 15))
  local slot, fingerprint = band(h1, mask), bor(h2, 1)
  while true do
    local seen = slots[slot * 2]
    if seen == 0 then return false end
    if tobit(seen) == fingerprint and tobit(slots[slot * 2 + 1]) == h1 then return true end
    slot = band(slot + 1, mask)
  end
end

-- Whether a rule could match the name or anything it lies below; true where nothing is known.
local bytes = ffi.typeof("const uint8_t *")
local function concerned(name)
  if header == nil or header[3] ~= 0 then
    if not map() then return true end
  end
  if header[4] ~= 0 then return true end
  local n, p = #name, ffi.cast(bytes, name)
  if n > 0 and p[n - 1] == 46 then n = n - 1 end
  local h1, h2 = 0, 0
  for i = n - 1, 0, -1 do
    local c = p[i]
    if c >= 65 and c <= 90 then c = c + 32 end
    if c == 46 and present(h1, h2) then return true end
    h1 = tobit(h1 * 65599 + c)
    h2 = tobit(h2 * 16777 + c)
  end
  return n > 0 and present(h1, h2)
end

local function fail(dq, why)
  dq.followupFunction = ""
  if FAIL_OPEN then return false end
  pdnslog("mrvpn: " .. why .. ": " .. dq.qname:toString(), pdns.loglevels.Warning)
  dq:setRecords({})
  dq.rcode = pdns.SERVFAIL
  dq.variable = true -- a failure is never packet-cached
  dq.extendedErrorCode = 14 -- Not Ready, RFC 8914
  return true
end

local function question(dq)
  local records = dq:getRecords()
  local ask = concerned(dq.qname:toString())
  local out, n, any = {}, 1, false
  for _, r in ipairs(records) do
    local t = r.type
    if r.place == 1 and wanted[t] then
      local owner = r.name:toString()
      ask = ask or concerned(owner)
      n = n + 1
      out[n] = t .. " " .. r.ttl .. " " .. owner .. " " .. r:getContent()
      any = any or carries[t] or false
    end
  end
  if not (ask and any) then return nil end
  sequence = (sequence + 1) % 2147483648
  local nonce = me .. "-" .. sequence
  out[1] = nonce .. " " .. dq.qtype .. " " .. dq.remoteaddr:toString() .. " " .. dq.qname:toString()
  return table.concat(out, "\n"), nonce
end

local function post(dq)
  if dq.rcode ~= 0 then return false end
  local text, nonce = question(dq)
  if not text then return false end
  if #text > LARGEST then return fail(dq, "the answer is too large to be routed") end
  dq.data = {nonce = nonce, left = TRIES - 1}
  dq.udpQuery, dq.udpQueryDest = text, destinations[sequence % PORTS]
  dq.udpCallback, dq.followupFunction = "mrvpn_verdict", "udpQueryResponse"
  return true
end

-- address hints taken out of the text of an SVCB or HTTPS record
local function without_hints(content, six, four)
  if six then content = content:gsub(" ipv6hint=%S+", "") end
  if four then content = content:gsub(" ipv4hint=%S+", "") end
  return content
end

-- "<nonce>": pass | "<nonce> T 60": clamp TTLs | "<nonce> F": fail | "<nonce> D 60 6": no AAAA, no ipv6hint, TTL 60 |
-- "<nonce> D 60 h": no hints | "... 6h": both. TTL 0: as it is.
local function verdict(dq)
  local nonce, verb, ttl, drop = dq.udpAnswer:match("^(%S+) ?(%a?) ?(%d*) ?(%w*)$")
  local state = dq.data
  if nonce ~= state.nonce then -- "" is a timeout or a closed port, another nonce somebody else's verdict
    if state.left > 0 then
      state.left = state.left - 1
      sequence = sequence + 1
      dq.udpQueryDest = destinations[sequence % PORTS]
      return true
    end
    return fail(dq, "no verdict from ipt_server")
  end
  dq.followupFunction = "" -- else the recursor asks again for ever
  if verb == "" then return false end -- unchanged: false keeps the DNSSEC state and the AD bit
  if verb == "F" then return fail(dq, "refused by ipt_server") end
  -- a changed answer switches validation off: a bogus one must not get out that way
  if isValidationStateBogus(dq.detailedValidationState) then return false end
  local cap = tonumber(ttl) or 0
  local no6, hints = verb == "D" and drop:find("6") ~= nil, verb == "D" and drop:find("h") ~= nil
  local kept, changed = {}, false
  for _, r in ipairs(dq:getRecords()) do
    if no6 and r.place == 1 and r.type == AAAA then
      changed = true
    else
      if (no6 or hints) and (r.type == HTTPS or r.type == SVCB) then
        local before = r:getContent()
        local after = without_hints(before, true, hints)
        if after ~= before then r:changeContent(after) changed = true end
      end
      if cap > 0 and r.ttl > cap then r.ttl = cap changed = true end
      kept[#kept + 1] = r
    end
  end
  if not changed then return false end
  dq:setRecords(kept)
  return true
end

-- an error that leaves a hook is no answer at all: every entry is guarded
function postresolve(dq)
  local ok, result = pcall(post, dq)
  if ok then return result end
  return fail(dq, tostring(result))
end

function mrvpn_verdict(dq)
  local ok, result = pcall(verdict, dq)
  if ok then return result end
  return fail(dq, tostring(result))
end
