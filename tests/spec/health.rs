//! Health, as gRPC's protocol has it: what each name says, and that a name that is not there is said to be not there.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout::proto::health::health_check_response::ServingStatus;
use fanout::proto::health::health_client::HealthClient;
use fanout::proto::health::{HealthCheckRequest, HealthListRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{PATIENCE, TestServer, refusal};

async fn connect(server: &TestServer) -> HealthClient<Channel> {
    HealthClient::connect(format!("http://{}", server.address))
        .await
        .unwrap()
}

fn named(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

async fn listed(health: &mut HealthClient<Channel>) -> BTreeMap<String, ServingStatus> {
    let list = health.list(HealthListRequest {}).await.unwrap();
    let statuses = list.into_inner().statuses.into_iter();
    statuses
        .map(|(name, answer)| (name, answer.status()))
        .collect()
}

async fn check(health: &mut HealthClient<Channel>, name: &str) -> Result<ServingStatus, Status> {
    let answer = health.check(named(name)).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn all_names_are_listed_and_each_is_checked_as_it_is_listed() {
    let server = TestServer::start().await;
    let mut health = connect(&server).await;
    let names = ["", "fanout.v1.FanoutService", "liveness", "readiness"];
    let expected = names.map(|name| (name.to_owned(), ServingStatus::Serving));
    assert_eq!(listed(&mut health).await, BTreeMap::from(expected));
    for name in names {
        assert_eq!(
            check(&mut health, name).await.unwrap(),
            ServingStatus::Serving,
            "{name}"
        );
    }
}

#[tokio::test]
async fn while_it_drains_a_server_is_alive_but_not_ready() {
    let mut server =
        TestServer::with(|config| config.times.drain_delay = Duration::from_secs(3_600)).await;
    let mut health = connect(&server).await;
    let mut ready = health.watch(named("")).await.unwrap().into_inner();
    let first = ready.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.begin_to_stop();
    let second = tokio::time::timeout(PATIENCE, ready.message())
        .await
        .unwrap();
    assert_eq!(second.unwrap().unwrap().status(), ServingStatus::NotServing);
    let expected = BTreeMap::from([
        (String::new(), ServingStatus::NotServing),
        ("fanout.v1.FanoutService".into(), ServingStatus::NotServing),
        ("liveness".into(), ServingStatus::Serving),
        ("readiness".into(), ServingStatus::NotServing),
    ]);
    assert_eq!(listed(&mut health).await, expected);
}

#[tokio::test]
async fn a_name_that_is_not_there_is_not_found_by_a_check_and_watched_as_unknown() {
    let server = TestServer::start().await;
    let mut health = connect(&server).await;
    let status = check(&mut health, "nope").await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::NotFound,
            "HEALTH_NAME_NOT_FOUND".into(),
            String::new()
        )
    );
    let mut watch = health.watch(named("nope")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
}
