//! The way from one replica to NATS: bytes go through, stop, or the connections break and no new ones come about.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are under way in one direction.
const BUFFER_BYTES: usize = 64 << 10;

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They go through.
    Open,
    /// They stop, and go on when the way is open again; nobody is told.
    Held,
    /// Connections are closed, and new ones too, as soon as they are there.
    Cut,
}

/// A listener that passes on what comes to one address, for as long as this lives.
pub struct Relay {
    pub port: u16,
    way: watch::Sender<Way>,
    /// Ends with this.
    _accepting: JoinSet<()>,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (way, state) = watch::channel(Way::Open);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target, state));
        Ok(Self {
            port,
            way,
            _accepting: accepting,
        })
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, way: watch::Receiver<Way>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted
                    && *way.borrow() != Way::Cut
                {
                    connections.spawn(connection(near, target, way.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Passes on in both directions until either ends.
async fn connection(near: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    let connected = async {
        // A connection that is made while the way is held waits for it, as its bytes would.
        way.wait_for(|way| *way == Way::Open).await.ok()?;
        let far = TcpStream::connect(target).await.ok()?;
        near.set_nodelay(true).ok()?;
        far.set_nodelay(true).ok()?;
        Some((near, far))
    };
    let Some((near, far)) = connected.await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = way.clone();
    tokio::select! {
        () = pass(near_read, far_write, way.clone()) => {}
        () = pass(far_read, near_write, way) => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut bytes = vec![0; BUFFER_BYTES];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let open = way.wait_for(|way| *way == Way::Open).await.is_ok();
        if !open || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
