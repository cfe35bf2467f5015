//! All replicas, and what keeps their plans.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::nats::Nats;
use crate::relay::Relay;
use crate::replica::Replica;
use crate::tally::Outcome;

/// What keeps the plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// So many NATS servers, for any number of replicas.
    Nats(usize),
    /// A data directory, for one.
    Disk,
    /// The memory of one: to see what is found wrong when plans are lost.
    Memory,
}

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Nats(nodes) => write!(formatter, "{nodes} NATS servers"),
            Self::Disk => formatter.write_str("disk"),
            Self::Memory => formatter.write_str("memory"),
        }
    }
}

pub struct Fleet {
    kept: Kept,
    folder: PathBuf,
    pub nats: Option<Nats>,
    pub replicas: Vec<Replica>,
}

impl Fleet {
    /// Starts so many replicas, with all files in the folder, and waits until they are ready.
    pub async fn start(kept: Kept, replicas: usize, folder: &Path) -> Outcome<Self> {
        let nats = match kept {
            Kept::Nats(nodes) => Some(Nats::start(nodes, folder).await?),
            Kept::Disk | Kept::Memory => None,
        };
        let mut fleet = Self {
            kept,
            folder: folder.to_owned(),
            nats,
            replicas: Vec::new(),
        };
        for _ in 0..replicas {
            fleet.join().await?;
        }
        for replica in &mut fleet.replicas {
            replica.ready().await?;
        }
        Ok(fleet)
    }

    /// Starts one more replica.
    pub async fn join(&mut self) -> Outcome<&mut Replica> {
        let nth = self.replicas.len();
        let mut ways = Vec::new();
        let mut arguments = Vec::new();
        match self.kept {
            Kept::Nats(nodes) => {
                for address in self.nats.iter().flat_map(Nats::addresses) {
                    ways.push(Relay::to(address).await?);
                }
                let servers: Vec<String> = ways
                    .iter()
                    .map(|way| format!("nats://127.0.0.1:{}", way.port))
                    .collect();
                let copies = if nodes < 3 { "1" } else { "3" };
                let servers = servers.join(",");
                arguments.extend(["--nats", &servers, "--nats-replicas", copies].map(String::from));
            }
            Kept::Disk => {
                let directory = self.folder.join("plans").display().to_string();
                arguments.extend(["--data-dir".to_owned(), directory]);
            }
            Kept::Memory => {}
        }
        let log = self.folder.join(format!("replica-{nth}.log"));
        let mut replica = Replica::new(arguments, log, ways)?;
        replica.start()?;
        self.replicas.push(replica);
        Ok(&mut self.replicas[nth])
    }

    /// Where the replicas are: the same after every start.
    pub fn addresses(&self) -> Arc<[String]> {
        let addresses = self.replicas.iter().map(|replica| replica.address.clone());
        addresses.collect()
    }
}
