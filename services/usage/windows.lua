-- The abuse windows of one user, exact and sliding, in one packed string (USE-6).
--
-- KEYS[1]  the user's key
-- ARGV     what ('claim', 'peek', 'undo', 'clear', 'lift'), kind (1 query, 2 modify), fingerprint,
--          now in ms (0: the server's clock), then for each kind its limit and window in ms, the
--          cool-down in ms, and what Postgres knows besides: '' or a packed string.
-- Returns  { verdict, cool-down's end in ms, queries, modifies, kind }
--          verdict: 0 granted, 1 a cool-down runs, 2 this one started it, 3 known already
--
-- Packed: cool-down's end (double), then for each kind a byte with how many, and for each entry its
-- time in ms (double) and its operation's fingerprint (4 bytes).
local what, kind, mark = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
local limits = { tonumber(ARGV[5]), tonumber(ARGV[7]) }
local widths = { tonumber(ARGV[6]), tonumber(ARGV[8]) }
local pause, seed = tonumber(ARGV[9]), ARGV[10]

if now == 0 then
    local clock = redis.call('TIME')
    now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end

local until_, logs, seen = 0, { {}, {} }, { {}, {} }

-- What is still in its window joins what is known: each operation once.
local function join(packed)
    local ends, place = struct.unpack('>d', packed, 1)
    until_ = math.max(until_, ends)
    for which = 1, 2 do
        local count
        count, place = struct.unpack('>B', packed, place)
        for _ = 1, count do
            local at, whose
            at, whose, place = struct.unpack('>dI4', packed, place)
            if at > now - widths[which] and not seen[which][whose] then
                seen[which][whose] = true
                table.insert(logs[which], { at, whose })
            end
        end
    end
end

local packed = redis.call('GET', KEYS[1])
if packed then join(packed) end
if seed ~= '' then
    join(seed)
    for which = 1, 2 do table.sort(logs[which], function(one, other) return one[1] < other[1] end) end
end
if until_ <= now then until_ = 0 end

local function keep()
    if until_ == 0 and #logs[1] == 0 and #logs[2] == 0 then
        redis.call('DEL', KEYS[1])
        return
    end
    local parts, last = { struct.pack('>d', until_) }, until_
    for which = 1, 2 do
        table.insert(parts, struct.pack('>B', #logs[which]))
        for _, entry in ipairs(logs[which]) do
            table.insert(parts, struct.pack('>dI4', entry[1], entry[2]))
            last = math.max(last, entry[1] + widths[which])
        end
    end
    redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.max(1, math.ceil(last - now)))
end

local function answer(verdict)
    return { verdict, tostring(until_), #logs[1], #logs[2], kind }
end

if what == 'clear' then
    local found = answer(0)
    redis.call('DEL', KEYS[1])
    return found
end
if what == 'lift' then
    until_ = 0
    keep()
    return answer(0)
end

local place_of
for place, entry in ipairs(logs[kind]) do
    if entry[2] == mark then place_of = place end
end

if what == 'undo' then
    if place_of then
        table.remove(logs[kind], place_of)
        keep()
    end
    return answer(0)
end
if place_of then return answer(3) end
if until_ > now then return answer(1) end
if #logs[kind] >= limits[kind] then
    if what == 'claim' then
        until_ = now + pause
        keep()
        return answer(2)
    end
    until_ = now + pause
    return answer(2)
end
if what == 'claim' then
    table.insert(logs[kind], { now, mark })
    keep()
end
return answer(0)
