//! The server that hostile input is for, and the check that it is well.

use std::pin::pin;
use std::time::{Duration, Instant};

use fanout::proto::health::HealthCheckRequest;
use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use fanout::proto::{GetPlanRequest, PlanRequest, PlanStatus};
use tonic::transport::Channel;

use super::wire::Peer;
use crate::harness::{Client, PATIENCE, Served, plan_request};

/// How much more than after warming up the program may hold when a case is over: what the allocator keeps of some
/// messages of 16 MiB for the next ones.
const ALLOWANCE_BYTES: u64 = 48 << 20;
/// How long memory may take to go back. The allocator gives it back with later calls, so calls are made meanwhile.
const RETURN_TIME: Duration = Duration::from_secs(30);
/// A plan that is there all the time: one task, `task-a`.
pub const PLAN: &str = "there";

/// A server, a client of it that behaves, and what it held before anything happened to it.
pub struct Target {
    pub served: Served,
    pub client: Client,
    health: HealthClient<Channel>,
    warm_bytes: u64,
}

impl Target {
    pub async fn start(arguments: &[&str]) -> Self {
        let served = Served::start(arguments);
        let channel = Channel::from_shared(format!("http://{}", served.address)).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut target = Self {
            client: Client::new(channel.clone()),
            health: HealthClient::new(channel),
            served,
            warm_bytes: u64::MAX >> 1,
        };
        let registered = target.client.plan(plan_request(PLAN, &["a"])).await;
        assert!(registered.unwrap().into_inner().created);
        for _ in 0..20 {
            target.serves("warming up").await;
        }
        target.warm_bytes = target.served.program.resident_bytes();
        target
    }

    /// A connection for what no client library sends.
    pub async fn peer(&self) -> Peer {
        Peer::connect(&self.served.address).await
    }

    /// Checks that the server is well, `after` what happened to it.
    pub async fn is_well(&mut self, after: &str) {
        let began = Instant::now();
        self.serves(after).await;
        loop {
            let held = self.served.program.resident_bytes();
            if held <= self.warm_bytes + ALLOWANCE_BYTES {
                return;
            }
            assert!(
                began.elapsed() < RETURN_TIME,
                "{} MiB are held after {after}, {} MiB before",
                held >> 20,
                self.warm_bytes >> 20
            );
            self.serves(after).await;
        }
    }

    /// Checks that it is served as ever for as long as this takes.
    pub async fn is_well_during(&mut self, what: &str, happens: impl Future<Output = Vec<u8>>) {
        let mut happens = pin!(happens);
        loop {
            tokio::select! {
                biased;
                _ = &mut happens => return,
                () = self.serves(what) => {}
            }
        }
    }

    /// Checks that sound calls are answered.
    pub async fn serves(&mut self, after: &str) {
        let calls = async {
            let check = HealthCheckRequest::default();
            let serving = self.health.check(check).await.unwrap().into_inner().status;
            assert_eq!(serving, ServingStatus::Serving as i32, "after {after}");
            let get = GetPlanRequest {
                plan_id: PLAN.into(),
                ..Default::default()
            };
            let plan = self.client.get_plan(get).await.unwrap().into_inner().plan;
            assert_eq!(
                plan.unwrap().status(),
                PlanStatus::Incomplete,
                "after {after}"
            );
            let sound = PlanRequest {
                validate_only: true,
                ..plan_request("sound", &["a", "b"])
            };
            let planned = self.client.plan(sound).await.unwrap().into_inner();
            assert_eq!(planned.task_requests.len(), 2, "after {after}");
        };
        let done = tokio::time::timeout(PATIENCE, calls).await;
        done.unwrap_or_else(|_| panic!("a sound call hangs after {after}"));
    }

    /// Ends the server, which must not have failed in anything meanwhile.
    pub async fn ends_well(mut self) {
        self.is_well("everything").await;
        drop((self.client, self.health));
        let served = self.served;
        let said = tokio::task::spawn_blocking(move || served.stop())
            .await
            .unwrap();
        assert_eq!((said.code, &*said.stdout), (0, ""), "{}", said.stderr);
        for word in ["panicked", "overflow", "ERROR", "some calls were cut"] {
            assert!(!said.stderr.contains(word), "{}", said.stderr);
        }
    }
}
