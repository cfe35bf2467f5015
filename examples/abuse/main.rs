//! A hostile tenant beside an honest one, at a server that may have 512 MiB.
//!
//!     cargo build --release && cargo run --release --example abuse [-- [--untimed] ATTACK...]
//!
//! The server is a process of its own, in a control group of its own where this may make one, with tokens of two tenants,
//! quotas for each, and few file descriptors. The honest client sends a record at a time and waits for its receipt, and reads
//! its plan now and then: alone, beside processes that only count (as many as there are processors, at the server's
//! priority), and beside each attack, five times in turn. The attacker is a process of its own, at the lowest priority, and the
//! server has a lower one than the honest client: they would be on three machines.
//!
//! No call of the honest client may fail, every refusal of the attacker has to have the right code and name the right limit,
//! and the p99 of an honest call beside an attack may be three times what it is where processors are as busy (medians of the
//! rounds): what a busy machine takes is not the server's to give.
//!
//! With `--untimed` there is one round of each attack, and nothing is said of times.
//!
//! The last line is `abuse: passed`, or the exit code is 1.

mod attacks;
mod frames;
mod honest;
mod limited;
#[path = "../program/program.rs"]
mod program;
#[path = "../program/tasks.rs"]
mod tasks;

use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fanout::identity;
use fanout::proto::fanout_service_client::FanoutServiceClient;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use attacks::ATTACKS;
use honest::Honest;
use limited::Limited;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Client = FanoutServiceClient<InterceptedService<Channel, Bring>>;

/// How long the honest client is alone, and beside busy processors, and how long it is beside an attack, in each of so many
/// rounds.
const ALONE: Duration = Duration::from_millis(700);
const BESIDE: Duration = Duration::from_millis(1_500);
const ROUNDS: usize = 5;
/// What an attack may make of the honest client's p99.
const RATIO_MAX: f64 = 3.0;
/// Says that times are not looked at.
const UNTIMED: &str = "--untimed";
/// As `nice` has it.
const SERVER_PRIORITY: &str = "5";

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, address, token] = &words[..]
        && first == "as"
    {
        return attacks::attack(name, address, token).await;
    }
    let timed = words.first().is_none_or(|first| first != UNTIMED);
    if !timed {
        words.remove(0);
    }
    for word in &words {
        if !ATTACKS.iter().any(|attack| attack.name == word) {
            let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
            return Err(format!("{word:?} is no attack; there are {}", names.join(", ")).into());
        }
    }
    let tokens = [identity::new_token()?, identity::new_token()?];
    let server = Limited::start(&tokens)?;
    let [honest, hostile] = &tokens;
    let mut honest = Honest::start(server.address(), honest).await?;
    // Cold memory.
    honest.calls(ALONE).await?;
    let before = server.resident_mib()?;
    println!("{before} MiB resident at the beginning");
    let mut wrong = Vec::new();
    for attack in &ATTACKS {
        if !words.is_empty() && !words.iter().any(|word| word == attack.name) {
            continue;
        }
        let (mut alone, mut busy, mut beside) = (Vec::new(), Vec::new(), Vec::new());
        let (mut calls, mut held, mut told) = (0, 0, String::new());
        for _ in 0..if timed { ROUNDS } else { 1 } {
            if timed {
                alone.push(honest.calls(ALONE).await?.p99);
                let counting = Counting::start()?;
                busy.push(honest.calls(ALONE).await?.p99);
                drop(counting);
            }
            let attacker = Command::new("nice")
                .args(["-n", "19"])
                .arg(std::env::current_exe()?)
                .args(["as", attack.name, server.address(), hostile])
                .stdout(Stdio::piped())
                .spawn()?;
            let attacked = honest.calls(BESIDE).await?;
            beside.push(attacked.p99);
            calls += attacked.calls;
            held = held.max(server.resident_mib()?);
            // It ends by itself, a little later.
            let ended = tokio::task::spawn_blocking(move || attacker.wait_with_output());
            told = String::from_utf8(ended.await??.stdout)?;
            wrong.extend(attack.judge(&told));
        }
        print!("{:<14} ", attack.name);
        if timed {
            let (alone, busy, beside) = (median(alone), median(busy), median(beside));
            let ratio = beside.as_secs_f64() / busy.as_secs_f64();
            print!(
                "p99 {:>5} us alone, {:>5} us busy, {:>5} us beside ({ratio:.2}), ",
                alone.as_micros(),
                busy.as_micros(),
                beside.as_micros(),
            );
            if ratio > RATIO_MAX {
                wrong.push(format!("{}: {ratio:.2} times the p99", attack.name));
            }
        }
        println!("{calls} calls; {held} MiB; {}", told.trim_end());
        // Also who comes anew.
        honest.reconnect().await?;
    }
    let after = server.settled_mib(&mut honest).await?;
    println!(
        "{after} MiB resident at the end, {} MiB at most, {}",
        server.peak_mib()?,
        server.limit_said()
    );
    server.end()?;
    if !wrong.is_empty() {
        return Err(wrong.join("; ").into());
    }
    println!("abuse: passed");
    Ok(())
}

/// Processes that keep the processors busy.
struct Counting(Vec<Child>);

impl Counting {
    fn start() -> Outcome<Self> {
        let processors = std::thread::available_parallelism()?.get();
        let count = || {
            let mut command = Command::new("nice");
            command.args(["-n", SERVER_PRIORITY, "sh", "-c", "while :; do :; done"]);
            command.spawn()
        };
        Ok(Self(
            (0..processors).map(|_| count()).collect::<Result<_, _>>()?,
        ))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Puts a token into every call.
#[derive(Clone)]
struct Bring(AsciiMetadataValue);

impl tonic::service::Interceptor for Bring {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.0.clone();
        request.metadata_mut().insert("authorization", token);
        Ok(request)
    }
}

/// A client that brings this token.
async fn connect(address: &str, token: &str) -> Outcome<Client> {
    let endpoint = Channel::from_shared(format!("http://{address}"))?;
    let channel = endpoint
        .connect_timeout(Duration::from_secs(10))
        .connect()
        .await?;
    let bring = Bring(format!("Bearer {token}").parse()?);
    Ok(FanoutServiceClient::with_interceptor(channel, bring).max_decoding_message_size(64 << 20))
}
