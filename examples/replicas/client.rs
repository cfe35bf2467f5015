//! A client of any replica: how it connects, what it may try again, and the calls that everybody makes.

use std::time::{Duration, Instant};

use fanout::proto::SealPlanRequest;
use fanout::proto::fanout_service_client::FanoutServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::tally::Outcome;
use crate::tasks;

/// Bytes of the largest message, in both directions.
const MESSAGE_BYTES: usize = 64 << 20;
/// A replica that has not answered by then is left for the next one.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);
const NO_CONNECTION: &str = "no connection";
/// Between two attempts.
pub const AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Who has not got on for so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub type Client = FanoutServiceClient<Channel>;

/// A client on a connection of its own.
pub async fn connect(address: &str) -> Result<Client, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(CONNECTED_WITHIN);
    let channel = endpoint.connect().await;
    let channel =
        channel.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
    Ok(FanoutServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES))
}

/// What a caller is told to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Try again: the server says when.
    ToTryAgain,
    /// Nothing: nobody listens.
    NotConnected,
    /// Nothing: the connection broke, or there was no answer in time.
    Broken,
    /// That trying again is in vain.
    ToGiveUp,
}

impl Told {
    pub fn by(status: &Status) -> Self {
        let details = status.get_error_details();
        if details.retry_info().is_some() {
            return Self::ToTryAgain;
        }
        let broken = matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::Unknown
        ) || status.message().contains("h2 protocol error");
        match details.error_info() {
            None if status.message().starts_with(NO_CONNECTION) => Self::NotConnected,
            None if broken => Self::Broken,
            _ => Self::ToGiveUp,
        }
    }
}

/// Waits for an answer, but not for longer than for one from a replica that is well.
pub async fn soon<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::unavailable("no answer in time"));
    tokio::time::timeout(ANSWER_WITHIN, call)
        .await
        .unwrap_or_else(late)
}

/// Asks one replica after the other, beginning with one of them, until one answers or says not to try again.
pub async fn ask_any<T, C>(
    addresses: &[String],
    begin: usize,
    call: impl Fn(Client) -> C,
) -> Outcome<T>
where
    C: Future<Output = Result<Response<T>, Status>>,
{
    let since = Instant::now();
    let mut last = Status::unavailable("nobody was asked");
    for address in addresses.iter().cycle().skip(begin % addresses.len()) {
        let answer = async { call(connect(address).await?).await };
        match soon(answer).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if Told::by(&status) == Told::ToGiveUp => return Err(status.into()),
            Err(status) => last = status,
        }
        if since.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Err(format!("no replica answers: {last:?}").into())
}

/// Plans tasks, for a plan that goes on although each has a record.
pub async fn plan(addresses: &[String], plan_id: &str, tasks: u64) -> Outcome<()> {
    let request = tasks::numbered(plan_id, tasks);
    let call = async |mut client: Client| client.plan(request.clone()).await;
    ask_any(addresses, 0, call).await.map(|_| ())
}

/// Ends a plan.
pub async fn seal(addresses: &[String], plan_id: &str) -> Outcome<()> {
    let request = SealPlanRequest {
        plan_id: plan_id.into(),
        ..Default::default()
    };
    let call = async |mut client: Client| client.seal_plan(request.clone()).await;
    ask_any(addresses, 0, call).await.map(|_| ())
}
