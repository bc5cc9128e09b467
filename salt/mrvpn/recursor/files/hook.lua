-- The recursor's side of "routed before answered": each answer that a rule could match goes to ipt_server as one datagram and
-- is let go only when the kernel has its addresses. Knows: PowerDNS's hooks, the datagram (docs/contracts.md, 5), the suffix
-- filter. Must not know: rules, exits.
--
-- Several ports of the daemon, because the recursor binds every query socket with SO_REUSEADDR to port 0: two in flight may share
-- one, and then one gets the other's verdict. The nonce tells them apart; a wrong one is asked again.
local ADDRESS, PORT, PORTS, TRIES, FAIL_OPEN = {{ r.hook.address | tojson }}, {{ r.hook.port }}, {{ r.hook.ports }}, {{ r.hook.tries }}, {{ 'true' if r.hook.fail == 'open' else 'false' }}
local FILTER = "/run/mrvpn-recursor/suffix.filter"
local LARGEST = 60000 -- bytes of a question

-- Nearly every line calls into the recursor, where a trace must end: trying costs 8 us a query. The filter's walk is compiled.
jit.off(true, true)
-- What the recursor hands over is freed by finalizers; the small heap behind them need not be walked for every few of them.
collectgarbage("setpause", 400)
collectgarbage("setstepmul", 1000)

local ffi, bit = require("ffi"), require("bit")
local bxor, band, rshift, tobit = bit.bxor, bit.band, bit.rshift, bit.tobit

local destinations = {}
for n = 0, PORTS - 1 do destinations[n] = newCA(ADDRESS .. ":" .. (PORT + n)) end
local anchor = {} -- its address makes nonces unique across the Lua states of the threads
local me = (tostring(anchor):match("0x0*(%x+)") or "0") .. string.format("%x", os.time() % 65536)
local sequence = 0

local A, AAAA, CNAME, DNAME, PTR, SVCB, HTTPS, RRSIG = pdns.A, pdns.AAAA, pdns.CNAME, 39, pdns.PTR, 64, 65, 46
local wanted = {[A] = true, [AAAA] = true, [CNAME] = true, [DNAME] = true, [PTR] = true, [SVCB] = true, [HTTPS] = true}
local carries = {[A] = true, [AAAA] = true, [PTR] = true, [SVCB] = true, [HTTPS] = true}

-- The suffix filter: a hash table in a file that ipt_server writes, new file and rename, and that all threads map. Header of 16
-- 32-bit words: magic, mask, entries, superseded, ask-for-all. Then the slots, each the CRC-32 of a reversed name, 0 = empty.
ffi.cdef [[
int open(const char *, int, ...); int close(int); long lseek(int, long, int);
void *mmap(void *, size_t, int, int, int, long); int munmap(void *, size_t);
]]
local MAGIC = 0x4D525632
local header, slots, mask, base, length

local table_of_crc = ffi.new("uint32_t[256]")
for n = 0, 255 do
  local c = n
  for _ = 1, 8 do c = band(c, 1) == 1 and bxor(rshift(c, 1), 0xEDB88320) or rshift(c, 1) end
  table_of_crc[n] = c % 4294967296
end

local function map()
  local fd = ffi.C.open(FILTER, 0x80000) -- O_RDONLY | O_CLOEXEC
  if fd < 0 then return false end
  local size = tonumber(ffi.C.lseek(fd, 0, 2))
  local p = size >= 64 and ffi.C.mmap(nil, size, 1, 1, fd, 0) -- PROT_READ, MAP_SHARED
  ffi.C.close(fd)
  if not p or ffi.cast("intptr_t", p) == -1 then return false end
  local words = ffi.cast("volatile uint32_t *", p)
  if words[0] ~= MAGIC or size < 64 + 4 * (tonumber(words[1]) + 1) then ffi.C.munmap(p, size) return false end
  if base then ffi.C.munmap(base, length) end
  base, length, header, slots, mask = p, size, words, words + 16, tonumber(words[1])
  return true
end

local function present(crc)
  local word = tobit(bxor(crc, -1))
  if word == 0 then word = 1 end
  local slot = band(word, mask)
  while true do
    local seen = tobit(slots[slot])
    if seen == 0 then return false end
    if seen == word then return true end
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
  local crc = -1
  for i = n - 1, 0, -1 do
    local c = p[i]
    if c >= 65 and c <= 90 then c = c + 32 end
    if c == 46 and present(crc) then return true end
    crc = bxor(table_of_crc[band(bxor(crc, c), 255)], rshift(crc, 8))
  end
  return n > 0 and present(crc)
end

jit.on(present)
jit.on(concerned)

local told = 0 -- one line a second is enough to say that the daemon is away
local function fail(dq, why, code)
  dq.followupFunction = ""
  if FAIL_OPEN and not code then return false end
  if os.time() ~= told then
    told = os.time()
    pdnslog("mrvpn: " .. why .. ": " .. dq.qname:toString(), pdns.loglevels.Warning)
  end
  dq:setRecords({})
  dq.rcode = pdns.SERVFAIL
  dq.variable = true -- a failure is never packet-cached
  dq.extendedErrorCode = code or 14 -- Not Ready, RFC 8914
  return true
end

-- Whether the hook must ask, and the records then. Names in records are looked at for a chain, whose last name owns the addresses
-- and any name of which may be a rule's, and for PTR, which names an address.
local function matched(dq)
  if concerned(dq.qname:toString()) then return true, dq:getRecords() end
  local records = dq:getRecords()
  for i = 1, #records do
    local r = records[i]
    local t = r.type
    if (t == CNAME or t == DNAME or t == PTR) and r.place == 1 then
      -- the target owns the next record; DNAME's and PTR's may own none
      if concerned(r.name:toString()) or concerned(r:getContent()) then return true, records end
    end
  end
  return false
end

local function question(dq)
  local ask, records = matched(dq)
  if not ask then return nil end
  local out, n, any = {}, 1, false
  for i = 1, #records do
    local r = records[i]
    local t = r.type
    if r.place == 1 and wanted[t] then
      n = n + 1
      out[n] = t .. " " .. r.ttl .. " " .. r.name:toString() .. " " .. r:getContent()
      any = any or carries[t] or false
    end
  end
  if not any then return nil end
  sequence = (sequence + 1) % 2147483648
  local nonce = me .. "-" .. sequence
  out[1] = nonce .. " " .. dq.qtype .. " " .. dq.remoteaddr:toString() .. " " .. dq.qname:toString()
  return table.concat(out, "\n"), nonce
end

local function post(dq)
  local text, nonce = question(dq)
  if not text or dq.rcode ~= 0 then return false end -- each look into the recursor costs: what decides most goes first
  -- A changed answer switches validation off, and what is bogus must neither be learned nor get out that way, CD bit or not.
  if isValidationStateBogus(dq.detailedValidationState) then return fail(dq, "bogus", 6) end -- DNSSEC Bogus, RFC 8914
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
  local cap = tonumber(ttl) or 0
  local no6, hints = verb == "D" and drop:find("6") ~= nil, verb == "D" and drop:find("h") ~= nil
  local kept, changed, answers = {}, false, 0
  for _, r in ipairs(dq:getRecords()) do
    local t = r.type
    local service = (no6 or hints) and (t == HTTPS or t == SVCB)
    -- a signature of what is withheld or changed goes with it
    local covers = t == RRSIG and (no6 or hints) and r:getContent():match("^%S+")
    if r.place == 1 and no6 and (t == AAAA or covers == "AAAA") or covers == "HTTPS" or covers == "SVCB" then
      changed = true
    else
      if service then
        local before = r:getContent()
        local after = without_hints(before, true, hints)
        if after ~= before then r:changeContent(after) changed = true end
      end
      if cap > 0 and r.ttl > cap then r.ttl = cap changed = true end
      if r.place == 1 then answers = answers + 1 end
      kept[#kept + 1] = r
    end
  end
  if not changed then return false end
  dq:setRecords(kept)
  -- "no such data" with an SOA, or it would be cached for a second only
  if answers == 0 then dq:addRecord(pdns.SOA, "localhost. hostmaster.localhost. 1 3600 600 86400 60", 2, 60) end
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
