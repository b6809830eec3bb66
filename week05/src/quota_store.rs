//! Support of [`quota`](crate::quota): its messages, the fair share, and the
//! script that decides in Redis.
//!
//! The script and `Ledger::grant` are twins: they make the same decision. The
//! script takes the time from the server, so no clock of a node matters. All
//! state of a limit is in one hash, so one node of a cluster has all of it, and
//! a restart loses either everything or nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::time::Duration;

use redis::{Client, Connection, RedisResult, Script};

use crate::max_min::{Demand, share};

/// Asks for a share of a limit, and states which one the holder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The name of the holder: another one for each class and after each start.
    pub holder: String,
    /// 1 in the first request of a holder, and then one more in each.
    pub number: u64,
    /// Its criticality. Class 0 is served first.
    pub class: u8,
    /// The rate that the holder can use.
    pub wants: u64,
    /// The rate at which the holder admits requests when it sends this.
    pub has: u64,
    /// The sum of all rates. The script is exact up to 2⁵³.
    pub limit: u64,
    /// The time for which a share is granted. The same for all holders.
    pub lease: Duration,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The number of the request.
    pub number: u64,
    /// The rate that the holder may use, in requests per second.
    pub rate: u64,
}

/// The entry of a holder in the store.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The number of the latest request.
    pub number: u64,
    /// The class of the holder.
    pub class: u8,
    /// The rate that the holder can use.
    pub wants: u64,
    /// The rate that the other holders must leave to this one.
    pub rate: u64,
    /// The end of the lease, on the clock of the store.
    pub until: Duration,
}

/// Returns the share of `holder` if all rates could be chosen anew: the classes
/// in order, and within a class max-min fairness. Of equal holders, the
/// remainder of the division goes to the first by name.
///
/// # Panics
///
/// If `shares` does not contain `holder`.
pub fn fair_share(
    limit: u64,
    shares: &BTreeMap<String, Share>,
    holder: &str,
) -> u64 {
    let class = shares[holder].class;
    let mut classes = BTreeMap::<u8, Vec<Demand>>::new();
    let mut position = 0;
    for (name, share) in shares {
        let demands = classes.entry(share.class).or_default();
        if name == holder {
            position = demands.len();
        }
        demands
            .push(Demand { wanted: share.wants, weight: NonZero::<u32>::MIN });
    }
    let mut left = limit;
    for demands in classes.range(..class).map(|(_, demands)| demands) {
        left -= share(left, demands).iter().sum::<u64>();
    }
    share(left, &classes[&class])[position]
}

/// Decides as `Ledger::grant` does, on the clock of the server.
///
/// Times are in microseconds. They fit into a number of Lua, which is a double.
/// `%.0f` prints all digits of it; `tostring` prints only 14.
pub const SCRIPT: &str = r#"
local key, holder, number, class, wants, has = KEYS[1], unpack(ARGV)
local limit, lease = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local latest = now + lease

-- A field for each holder, with the prefix 'h:', and the time of the creation.
local born, others, own, shares = now, 0, nil, {}
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'born' then
    born = math.min(tonumber(value), now)
  else
    local n, c, w, r, u = string.match(value, '(%d+) (%d+) (%d+) (%d+) (%d+)')
    -- If the clock went back, no share lasts longer than a lease from now.
    local ends = math.min(tonumber(u), latest)
    if ends <= now then
      redis.call('HDEL', key, name)
    else
      local share = { name = name, class = tonumber(c), wants = tonumber(w) }
      if ends < tonumber(u) then
        local cut = string.format('%s %s %s %s %.0f', n, c, w, r, ends)
        redis.call('HSET', key, name, cut)
      end
      if name == 'h:' .. holder then
        own = tonumber(n)
      else
        others = others + tonumber(r)
        shares[#shares + 1] = share
      end
    end
  end
end
redis.call('HSET', key, 'born', string.format('%.0f', born))
if own and tonumber(number) <= own then
  return { now, -1 }
end

local me = { name = 'h:' .. holder, class = tonumber(class) }
me.wants = tonumber(wants)
shares[#shares + 1] = me
table.sort(shares, function(a, b)
  if a.class ~= b.class then return a.class < b.class end
  if a.wants ~= b.wants then return a.wants < b.wants end
  return a.name < b.name
end)

-- Class by class, the small demands first. `level` is what each of the others
-- gets. If it is not a whole number, the first ones by name get one more.
local function fair_share()
  local left, first = limit, 1
  while true do
    local last = first
    while shares[last + 1] and shares[last + 1].class == shares[first].class do
      last = last + 1
    end
    while first <= last do
      local level = math.floor(left / (last - first + 1))
      if shares[first].wants > level then break end
      if shares[first] == me then return me.wants end
      left = left - shares[first].wants
      first = first + 1
    end
    local count, before, found = last - first + 1, 0, false
    for i = first, last do
      if shares[i] == me then found = true end
      if shares[i].name < me.name then before = before + 1 end
    end
    if found then
      local level = math.floor(left / count)
      return before < left - level * count and level + 1 or level
    end
    if count > 0 then left = 0 end
    first = last + 1
  end
end

local rate = now < born + lease and tonumber(has) or fair_share()
rate = math.min(rate, math.max(limit - others, 0))
redis.call('HSET', key, 'h:' .. holder, string.format('%s %s %s %.0f %.0f',
  number, class, wants, math.max(rate, tonumber(has)), latest))
redis.call('PEXPIRE', key, 3600000)
return { now, rate }
"#;

/// The store of one limit in Redis.
pub struct RedisStore {
    client: Client,
    connection: Option<Connection>,
    script: Script,
    key: String,
    timeout: Duration,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Creates a store that connects when it is used. `timeout` is for each
    /// connect, read and write. It should be shorter than the refresh interval.
    pub fn new(url: &str, key: &str, timeout: Duration) -> RedisResult<Self> {
        Ok(Self {
            client: Client::open(url)?,
            connection: None,
            script: Script::new(SCRIPT),
            key: key.to_owned(),
            timeout,
        })
    }

    /// Calls the script. Returns the time of the server, and the grant, or
    /// `None` if the request is older than one that the store has seen.
    pub fn grant(
        &mut self,
        request: &Request,
    ) -> RedisResult<(Duration, Option<Grant>)> {
        // After an error the connection is dropped, and not only if it is
        // closed: after a time-out, the next read would return the late reply.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let (now, rate): (u64, i64) = self
            .script
            .key(&self.key)
            .arg(&request.holder)
            .arg(request.number)
            .arg(request.class)
            .arg(request.wants)
            .arg(request.has)
            .arg(request.limit)
            .arg(request.lease.as_micros() as u64)
            .invoke(&mut connection)?;
        self.connection = Some(connection);
        let grant = |rate| Grant { number: request.number, rate };
        Ok((Duration::from_micros(now), u64::try_from(rate).ok().map(grant)))
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection =
            self.client.get_connection_with_timeout(self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        Ok(connection)
    }
}
