//! What TLS leaves of the record path: the coordinator beside the bare echo where both speak TLS 1.3 and the coordinator
//! asks for tokens, and, for what that itself costs, both without.

use rcgen::{CertificateParams, KeyPair};
use sha2::{Digest, Sha256};

use crate::echo::ECHO;
use crate::server::Server;
use crate::submit::{self, PLAN};
use crate::wire::echoed;
use crate::{Outcome, RECORD_BYTES, Shape, Size, cell, ratio, shapes};

const TOKEN: &str = "the load program's";

/// Compares, and prints a block for each number of streams.
pub async fn compare(size: Size) -> Outcome<()> {
    let files = tempfile::tempdir()?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.self_signed(&key)?;
    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    let path = |name: &str| files.path().join(name).display().to_string();
    let (certificate_path, key_path) = (path("certificate.pem"), path("key.pem"));
    std::fs::write(&certificate_path, &certificate)?;
    std::fs::write(&key_path, key)?;
    let tls = ["--tls-cert", &certificate_path, "--tls-key", &key_path];
    let echoes = [
        Server::echo_over_tls(&["bare", "decoding"], tls, &certificate).await?,
        Server::echo(&["bare", "decoding"]).await?,
    ];
    let tokens = path("tokens.toml");
    std::fs::write(&tokens, list_of(TOKEN))?;
    let coordinators = [
        Server::fanout_over_tls(tls, &certificate, &tokens, TOKEN).await?,
        Server::fanout().await?,
    ];
    println!(
        "Records/s and CPU-s per million (user/system), {} rounds",
        size.rounds
    );
    for shape in shapes(size) {
        if shape.record_bytes != RECORD_BYTES {
            continue;
        }
        let rounds = rounds(&echoes, &coordinators, shape, size).await?;
        println!(
            "{} streams, {} records a message:",
            shape.streams, shape.batch
        );
        for (nth, name) in [
            "bare echo, TLS",
            "coordinator, TLS, tokens",
            "with short receipts",
            "bare echo",
            "coordinator",
            "with short receipts",
        ]
        .iter()
        .enumerate()
        {
            let rates: Vec<_> = rounds.iter().map(|round| round[nth]).collect();
            println!("{name:>24}  {}", cell(&rates));
        }
        let share = |of: usize, beside: usize| {
            ratio(&rounds, |round| {
                round[of].per_second / round[beside].per_second
            })
        };
        println!(
            "{:>24}  {:.2}, short {:.2} of the echo with TLS, {:.2}, short {:.2} without; TLS leaves {:.2} of the coordinator, short {:.2}, {:.2} of the echo",
            "",
            share(1, 0),
            share(2, 0),
            share(4, 3),
            share(5, 3),
            share(1, 4),
            share(2, 5),
            share(0, 3)
        );
    }
    Ok(())
}

/// A list of callers, with the one of this token, who may plan and submit.
fn list_of(token: &str) -> String {
    let hash = Sha256::digest(token);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[[token]]\nname = \"load\"\nsha256 = \"{hash}\"\nroles = [\"plan\", \"submit\"]\n")
}

/// With TLS and without: the echo and the coordinator, in turn.
async fn rounds(
    echoes: &[Server; 2],
    coordinators: &[Server; 2],
    shape: Shape,
    size: Size,
) -> Outcome<Vec<[submit::Rate; 6]>> {
    let messages = submit::one_for_each(PLAN, 0, shape);
    let for_short = submit::one_for_each(PLAN, 0, shape.for_short());
    let mut rounds = Vec::new();
    // The first warms up.
    for round in 0..=size.rounds {
        let mut rates = Vec::new();
        for (echo, coordinator) in echoes.iter().zip(coordinators) {
            rates.push(submit::send(echo, ECHO, echoed, &messages, submit::Pace::Free).await?);
            for messages in [&messages, &for_short] {
                rates.push(submit::on_a_plan(coordinator, messages, shape).await?);
            }
        }
        if let (true, Ok(rates)) = (round > 0, rates.try_into()) {
            rounds.push(rates);
        }
    }
    Ok(rounds)
}
