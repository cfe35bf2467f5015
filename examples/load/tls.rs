//! What TLS leaves of the record path: the coordinator beside the bare echo where both speak TLS 1.3, and, for what TLS
//! itself costs, both without.

use rcgen::{CertificateParams, KeyPair};

use crate::echo::ECHO;
use crate::server::Server;
use crate::submit::{self, PLAN, SUBMIT};
use crate::wire::{echoed, receipts};
use crate::{Outcome, RECORD_BYTES, Shape, Size, cell, ratio, shapes};

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
    let coordinators = [
        Server::fanout_over_tls(tls, &certificate).await?,
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
            "coordinator, TLS",
            "bare echo",
            "coordinator",
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
            "{:>24}  {:.2} of the echo with TLS, {:.2} without; TLS leaves {:.2} of the coordinator, {:.2} of the echo",
            "",
            share(1, 0),
            share(3, 2),
            share(1, 3),
            share(0, 2)
        );
    }
    Ok(())
}

/// With TLS and without: the echo and the coordinator, in turn.
async fn rounds(
    echoes: &[Server; 2],
    coordinators: &[Server; 2],
    shape: Shape,
    size: Size,
) -> Outcome<Vec<[submit::Rate; 4]>> {
    let messages = submit::one_for_each(PLAN, 0, shape);
    let mut rounds = Vec::new();
    // The first warms up.
    for round in 0..=size.rounds {
        let mut rates = Vec::new();
        for (echo, coordinator) in echoes.iter().zip(coordinators) {
            rates.push(submit::send(echo, ECHO, echoed, &messages, usize::MAX).await?);
            submit::plan_tasks(coordinator, PLAN, shape.records).await?;
            coordinator.settle().await?;
            rates.push(submit::send(coordinator, SUBMIT, receipts, &messages, usize::MAX).await?);
            submit::delete(coordinator, PLAN).await?;
            coordinator.settle().await?;
        }
        if let (true, Ok(rates)) = (round > 0, rates.try_into()) {
            rounds.push(rates);
        }
    }
    Ok(rounds)
}
