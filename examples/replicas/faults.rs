//! What goes wrong, one fault after the other, sometimes two at a time, and how soon a record is taken all the same.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::watch;

use crate::expected::Draw;
use crate::fleet::Fleet;
use crate::nats::Nats;
use crate::probe::Prober;
use crate::relay::Way;
use crate::tally::{Outcome, Tally};

/// A record is taken within this after a fault, or somebody is told.
pub const AVAILABLE_WITHIN: Duration = Duration::from_secs(5);
/// Parts of the records that are released for each fault: before it, in it, and before it is over.
pub const PARTS: u64 = 3;
/// How long the work goes on before a fault, at most.
const CALM_MS: u64 = 200;
/// A replica that is asked to end has ended by then: no client keeps it.
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// One fault in so many has another one in its midst.
const TWO_IN: u64 = 4;

/// One fault, and how long it lasts.
#[derive(Clone, Copy)]
struct Fault {
    kind: Kind,
    lasts: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// SIGKILL, and a start.
    Killed(usize),
    /// SIGTERM, and a start when it has ended.
    Restarted(usize),
    /// SIGSTOP, and SIGCONT.
    Paused(usize),
    /// The ways to NATS are held.
    Held(usize),
    /// The ways to NATS are cut.
    Cut(usize),
    /// One NATS server is killed and started.
    NatsKilled(usize),
    /// All of them are.
    AllNatsKilled,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self.kind {
            Kind::Killed(at) => write!(formatter, "replica {at} killed"),
            Kind::Restarted(at) => write!(formatter, "replica {at} restarted"),
            Kind::Paused(at) => write!(formatter, "replica {at} stopped"),
            Kind::Held(at) => write!(formatter, "replica {at} held from NATS"),
            Kind::Cut(at) => write!(formatter, "replica {at} cut from NATS"),
            Kind::NatsKilled(at) => write!(formatter, "NATS server {at} killed"),
            Kind::AllNatsKilled => write!(formatter, "NATS killed"),
        }?;
        write!(formatter, " for {} ms", self.lasts.as_millis())
    }
}

impl Kind {
    fn replica(self) -> Option<usize> {
        match self {
            Self::Killed(at)
            | Self::Restarted(at)
            | Self::Paused(at)
            | Self::Held(at)
            | Self::Cut(at) => Some(at),
            Self::NatsKilled(_) | Self::AllNatsKilled => None,
        }
    }
}

/// Makes the faults.
pub struct Faults<'a> {
    pub fleet: &'a mut Fleet,
    pub prober: &'a mut Prober,
    pub tally: &'a Tally,
    pub draw: Draw,
    pub released: &'a watch::Sender<(u64, u64)>,
    /// The longest until a record was taken after a fault, and which fault.
    pub worst: (Duration, String),
    /// The longest until a replica took records again after its fault, and which.
    pub worst_back: (Duration, String),
}

impl Faults<'_> {
    /// Makes so many.
    pub async fn run(&mut self, count: u64) -> Outcome<()> {
        let since = Instant::now();
        let mut made = 0;
        while made < count {
            let first = self.one(None);
            // Without NATS nobody takes anything, whatever else happens.
            let two = first.kind != Kind::AllNatsKilled
                && made + 1 < count
                && self.fleet.replicas.len() > 2
                && self.draw.below(TWO_IN) == 0;
            let second = two.then(|| self.one(Some(first.kind)));
            made += 1 + u64::from(second.is_some());
            eprintln!(
                "{made} of {count} faults, {} records acknowledged, {} s: {first}{}",
                self.tally.acknowledged(),
                since.elapsed().as_secs(),
                second
                    .map(|second| format!(", meanwhile {second}"))
                    .unwrap_or_default(),
            );
            self.release();
            self.pause(CALM_MS).await;
            self.inject(first).await?;
            let begin = Instant::now();
            if let Some(second) = second {
                self.pause(CALM_MS).await;
                self.inject(second).await?;
                self.over(second).await?;
                for _ in 0..PARTS {
                    self.release();
                }
            }
            tokio::time::sleep(first.lasts.saturating_sub(begin.elapsed())).await;
            self.undo(first).await?;
        }
        Ok(())
    }

    /// Makes a fault while the work goes on, and looks who takes a record.
    async fn inject(&mut self, fault: Fault) -> Outcome<()> {
        self.make(fault.kind)?;
        if self.somebody_is_left(fault.kind) {
            self.available(fault).await?;
        }
        self.release();
        Ok(())
    }

    /// Waits until a fault is over.
    async fn over(&mut self, fault: Fault) -> Outcome<()> {
        tokio::time::sleep(fault.lasts).await;
        self.undo(fault).await
    }

    /// One fault, not of the same replica as another one, and not both of NATS.
    fn one(&mut self, other: Option<Kind>) -> Fault {
        let replicas = self.fleet.replicas.len();
        let mut at = self.below(replicas);
        if other.and_then(Kind::replica) == Some(at) {
            at = (at + 1) % replicas;
        }
        let nats = self.fleet.nats.as_ref().map(Nats::count);
        let other_is_of_nats = other.is_some_and(|other| other.replica().is_none());
        let kind = match (nats, self.draw.below(100)) {
            (None, 0..60) | (Some(_), 0..25) => Kind::Killed(at),
            (None, 60..70) | (Some(_), 25..30) => Kind::Restarted(at),
            (None, _) | (Some(_), 30..55) => Kind::Paused(at),
            (Some(_), 55..70) => Kind::Held(at),
            (Some(_), 70..85) => Kind::Cut(at),
            (Some(_), _) if other_is_of_nats => Kind::Killed(at),
            (Some(1), _) => Kind::AllNatsKilled,
            (Some(_), 85..90) => Kind::AllNatsKilled,
            (Some(nodes), _) => Kind::NatsKilled(self.below(nodes)),
        };
        // The long ones are longer than a connection to NATS lives that says nothing.
        let long = self.draw.below(2) == 0;
        let milliseconds = match kind {
            Kind::Paused(_) | Kind::Held(_) | Kind::Cut(_) if long => {
                3_500 + self.draw.below(3_000)
            }
            _ => self.draw.below(1_000),
        };
        Fault {
            kind,
            lasts: Duration::from_millis(milliseconds),
        }
    }

    /// Whether there is a replica that can take records in spite of it. Of two faults at a time, each leaves one.
    fn somebody_is_left(&self, kind: Kind) -> bool {
        match kind {
            Kind::AllNatsKilled => false,
            Kind::NatsKilled(_) => self
                .fleet
                .nats
                .as_ref()
                .is_some_and(|nats| nats.count() > 2),
            _ => self.fleet.replicas.len() > 1,
        }
    }

    fn make(&mut self, kind: Kind) -> Outcome<()> {
        match kind {
            Kind::Killed(at) => self.fleet.replicas[at].kill()?,
            Kind::Restarted(at) => self.fleet.replicas[at].signal(Signal::SIGTERM)?,
            Kind::Paused(at) => self.fleet.replicas[at].signal(Signal::SIGSTOP)?,
            Kind::Held(at) => self.fleet.replicas[at].set_ways(Way::Held),
            Kind::Cut(at) => self.fleet.replicas[at].set_ways(Way::Cut),
            Kind::NatsKilled(_) | Kind::AllNatsKilled => {
                for nth in self.nats_of(kind) {
                    self.nats()?.kill(nth)?;
                }
            }
        }
        Ok(())
    }

    async fn undo(&mut self, fault: Fault) -> Outcome<()> {
        self.release();
        match fault.kind {
            Kind::Killed(at) | Kind::Restarted(at) => {
                let replica = &mut self.fleet.replicas[at];
                if matches!(fault.kind, Kind::Restarted(_)) {
                    replica.ended(ENDED_WITHIN).await?;
                }
                replica.start()?;
                replica.ready().await?;
            }
            Kind::Paused(at) => self.fleet.replicas[at].signal(Signal::SIGCONT)?,
            Kind::Held(at) | Kind::Cut(at) => self.fleet.replicas[at].set_ways(Way::Open),
            Kind::NatsKilled(_) | Kind::AllNatsKilled => {
                for nth in self.nats_of(fault.kind) {
                    self.nats()?.restart(nth)?;
                }
                self.nats()?.well().await?;
            }
        }
        if !self.somebody_is_left(fault.kind) {
            self.available(fault).await?;
        }
        if let Some(at) = fault.kind.replica() {
            let back = self.prober.probe(at, true).await?;
            if back > self.worst_back.0 {
                self.worst_back = (back, fault.to_string());
            }
        }
        Ok(())
    }

    /// Looks how soon a record is taken, by whoever takes it; the replica that was hit is asked first.
    async fn available(&mut self, fault: Fault) -> Outcome<()> {
        let replicas = self.fleet.replicas.len();
        let begin = fault.kind.replica().unwrap_or_else(|| self.below(replicas));
        let taken = self.prober.probe(begin, false).await?;
        if taken > AVAILABLE_WITHIN {
            let milliseconds = taken.as_millis();
            self.tally.wrong(format_args!(
                "{fault}: a record was taken after {milliseconds} ms"
            ));
        }
        if taken > self.worst.0 {
            self.worst = (taken, fault.to_string());
        }
        Ok(())
    }

    fn nats_of(&self, kind: Kind) -> Vec<usize> {
        match kind {
            Kind::NatsKilled(nth) => vec![nth],
            _ => (0..self.fleet.nats.as_ref().map_or(0, Nats::count)).collect(),
        }
    }

    fn nats(&mut self) -> Outcome<&mut Nats> {
        self.fleet
            .nats
            .as_mut()
            .ok_or_else(|| "there is no NATS".into())
    }

    fn release(&self) {
        self.released
            .send_modify(|(part, parts)| *part = (*part + 1).min(*parts));
    }

    async fn pause(&mut self, milliseconds_max: u64) {
        let milliseconds = self.draw.below(milliseconds_max);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.draw.below(end as u64)).unwrap_or_default()
    }
}
