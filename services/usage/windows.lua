-- The abuse windows of one user, exact and sliding, in one packed string (USE-6): what a batch of
-- decisions adds to them joins what is there.
--
-- KEYS[1]  the user's key
-- ARGV     now in ms, then the width in ms of the window of queries and of that of modifies, the
--          most entries that are of use in each, and what joins, packed
--
-- Packed: cool-down's end in ms (double), then for each window a byte with how many, and for each
-- entry its time in ms (double) and its operation's fingerprint (4 bytes).
local now = tonumber(ARGV[1])
local widths = { tonumber(ARGV[2]), tonumber(ARGV[4]) }
local most = { tonumber(ARGV[3]), tonumber(ARGV[5]) }
local until_, logs, seen = 0, { {}, {} }, { {}, {} }

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
if packed then pcall(join, packed) end -- what cannot be read is not ours, and gives way
join(ARGV[6])
if until_ <= now then until_ = 0 end

local parts, last = { struct.pack('>d', until_) }, until_
for which = 1, 2 do
    local log = logs[which]
    table.sort(log, function(one, other) return one[1] < other[1] end)
    local first = math.max(1, #log - most[which] + 1)
    table.insert(parts, struct.pack('>B', #log - first + 1))
    for place = first, #log do
        table.insert(parts, struct.pack('>dI4', log[place][1], log[place][2]))
        last = math.max(last, log[place][1] + widths[which])
    end
end
if last > now then
    redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.ceil(last - now))
else
    redis.call('DEL', KEYS[1])
end
return #logs[1] + #logs[2]
