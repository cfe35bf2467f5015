//! Everything goes well, and the memory comes back.

use std::time::{Duration, Instant};

use fanout::proto::watch_plan_response::Frame;
use fanout::proto::{DeletePlanRequest, ListPlansRequest, WatchPlanRequest};
use tokio::task::JoinSet;

use crate::server::Server;
use crate::{Client, Outcome, PLAN, STREAMS_PER_CONNECTION, Size, register, submit};

/// How long to use the server a little until half of the peak is free again.
const MEMORY_PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(size: Size) -> Outcome<()> {
    let server = Server::start(&[])?;
    println!("{} MiB resident at the beginning", server.resident_mib()?);
    for _ in 0..2 {
        let (peak, after) = crowd(&server, size).await?;
        if after > peak / 2 {
            return Err("the plan's memory did not come back".into());
        }
    }
    Ok(())
}

/// Answers the server's resident memory with the plan and after its deletion, in MiB.
async fn crowd(
    server: &Server,
    Size {
        streams,
        watchers,
        tasks,
    }: Size,
) -> Outcome<(u64, u64)> {
    let mut client = server.connect().await?;
    register(&mut client, tasks).await?;

    let began = Instant::now();
    let mut watching = JoinSet::new();
    let mut submitting = JoinSet::new();
    let most = streams.max(watchers);
    for first in (0..most).step_by(STREAMS_PER_CONNECTION) {
        let client = server.connect().await?;
        for number in first..(first + STREAMS_PER_CONNECTION).min(most) {
            if number < watchers {
                watching.spawn(watch(client.clone(), tasks));
            }
            if number < streams {
                submitting.spawn(submit(
                    client.clone(),
                    (number..tasks).step_by(streams).collect(),
                    1,
                ));
            }
        }
    }
    while let Some(submitted) = submitting.join_next().await {
        submitted??;
    }
    let submitted = began.elapsed();
    while let Some(watched) = watching.join_next().await {
        watched??;
    }
    let peak = server.resident_mib()?;
    println!(
        "{tasks} records over {streams} streams in {submitted:.1?}; {watchers} watchers had all after {:.1?}",
        began.elapsed()
    );
    let delete = DeletePlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    client.delete_plan(delete).await?;
    drop(client);
    // The allocator gives memory back a little after it is free, while it is used.
    let deleted = Instant::now();
    let mut after = server.resident_mib()?;
    while after > peak / 2 && deleted.elapsed() < MEMORY_PATIENCE {
        server
            .connect()
            .await?
            .list_plans(ListPlansRequest::default())
            .await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        after = server.resident_mib()?;
    }
    println!(
        "{peak} MiB resident with the plan, {after} MiB {:.1?} after it was deleted",
        deleted.elapsed()
    );
    Ok((peak, after))
}

/// Follows the plan to its end, and checks what it is shown.
async fn watch(mut client: Client, tasks: usize) -> Outcome<()> {
    let request = WatchPlanRequest {
        plan_id: PLAN.into(),
        ..Default::default()
    };
    let mut frames = client.watch_plan(request).await?.into_inner();
    let (mut last, mut seen) = (0, vec![false; tasks]);
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Frame::Result(result)) => {
                let task: usize = result.task_id.trim_start_matches('t').parse()?;
                if result.sequence <= last || std::mem::replace(&mut seen[task], true) {
                    return Err(format!("out of sequence or seen twice: {result:?}").into());
                }
                last = result.sequence;
            }
            Some(Frame::End(_)) if seen.iter().all(|seen| *seen) => return Ok(()),
            Some(Frame::Heartbeat(_)) => {}
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }
    Err("the watch ended without End".into())
}
