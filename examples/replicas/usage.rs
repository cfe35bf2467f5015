//! What this program is told.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::fleet::Kept;
use crate::tally::Outcome;

pub const HELP: &str = r#"
Has replicas killed, stopped and cut off from NATS, and NATS itself killed, while they take records, and compares what they
show afterwards.

  cargo build --release && cargo run --release --example replicas -- --faults N --records M --seed S

  --faults N        how many faults
  --records M       how many records, of all submitters together
  --seed S          draws the faults, the records, and who goes where; the same seed draws the same
  --replicas N      how many replicas (default 3)
  --nats-nodes N    NATS servers: 1, or 3 that keep three copies (default 1)
  --join N          records of the plan that a fresh replica takes over at the end (default 100000; 0: none)
  --kept WHERE      nats (default); disk: one replica with a data directory and no NATS; memory: one replica, which
                    loses its plans, to see that this is found

The replicas are processes of the `fanout` beside this example. Each reaches NATS through ways of its own inside this
program. The NATS servers are processes, too, with `sync_interval: always` and their files in a temporary folder:
scripts/nats-server has one, or set NATS_SERVER to its path.

What goes wrong, one after the other and in one of four cases two at a time: a replica is killed (SIGKILL) or asked to end
(SIGTERM), and started; a replica is stopped (SIGSTOP), for up to 6.5 s, and goes on; its ways to NATS are held (bytes
stop, nobody is told) or cut (closed, and closed again when it connects) for as long; a NATS server, or all of them, are
killed and started.

Meanwhile submitters of four plans send numbered records to any replica. They leave it when it fails, and at random; at
the next one they ask how many of their records the plan has, which must not be fewer than were acknowledged, and send the
last acknowledged message again, which must get the same receipts. Some messages go to two replicas at the same time. What
each record must come to is computed here. No answer may show a plan older than an answer before it did. Watchers move
from replica to replica with their cursors, and see every result once; what is shown for a sequence is compared, by
digest, with what any replica has shown for it. At the end every acknowledged record must be in the plan once, results and
watches from the beginning must be equal to the byte on all replicas, and again after all of them were killed and started.

After each fault a record is sent to one replica after the other, the one that was hit first, until somebody acknowledges
it: within 5 s, for the fault that takes all of NATS within 5 s of its return. The fresh replica at the end answers the first
page of its plan, and takes a record, within 2 s of being ready.

The last line is `acknowledged A, lost L, doubled D, equal yes|no`: records with a receipt, those of them that a plan does
not have, records that were applied twice, and whether all else was as it must be. Exit code 1 unless it ends with `lost 0,
doubled 0, equal yes`; then the logs are kept, and it is said where.
"#;

pub struct Arguments {
    pub faults: u64,
    pub records: u64,
    pub seed: u64,
    pub replicas: usize,
    pub kept: Kept,
    pub join: u64,
}

impl Arguments {
    /// What was given on the command line; nothing if help is wanted.
    pub fn given() -> Outcome<Option<Self>> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        if words.iter().any(|word| word == "--help" || word == "-h") {
            return Ok(None);
        }
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                return Err(format!("{} needs a value", pair[0]).into());
            };
            given.insert(name, value);
        }
        let nodes = number(&mut given, "--nats-nodes", Some(1))?;
        let kept = match given.remove("--kept").unwrap_or("nats") {
            "nats" if nodes == 1 || nodes == 3 => Kept::Nats(nodes),
            "nats" => return Err("--nats-nodes is 1 or 3".into()),
            "disk" => Kept::Disk,
            "memory" => Kept::Memory,
            other => return Err(format!("--kept is nats, disk or memory, not {other}").into()),
        };
        let replicas = match kept {
            Kept::Nats(_) => number(&mut given, "--replicas", Some(3))?,
            Kept::Disk | Kept::Memory => number(&mut given, "--replicas", Some(1))?,
        };
        if replicas == 0 || (replicas > 1 && !matches!(kept, Kept::Nats(_))) {
            return Err("--replicas is 1 or more, and 1 without NATS".into());
        }
        let arguments = Self {
            faults: number(&mut given, "--faults", None)?,
            records: number(&mut given, "--records", None)?,
            seed: number(&mut given, "--seed", None)?,
            replicas,
            kept,
            join: number(&mut given, "--join", Some(100_000))?,
        };
        match given.keys().next() {
            Some(name) => Err(format!("unknown argument {name}").into()),
            None => Ok(Some(arguments)),
        }
    }
}

/// The number that was given, or the one that is taken otherwise.
fn number<T: FromStr>(
    given: &mut BTreeMap<&str, &str>,
    name: &str,
    default: Option<T>,
) -> Outcome<T> {
    let Some(value) = given.remove(name) else {
        return default.ok_or_else(|| format!("{name} is missing").into());
    };
    let number = value.parse();
    number.map_err(|_| format!("{name} is a number, not {value}").into())
}
