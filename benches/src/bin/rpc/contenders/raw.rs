//! The floor: a length-delimited echo over TCP, without ids, messages or JSON.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use dwcp_benches::Failure;
use futures::{FutureExt, Sink, SinkExt, StreamExt, TryStreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::calls::microseconds;

/// Echoes frames for whoever connects, from a task; says where.
pub(crate) async fn serve() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if stream.set_nodelay(true).is_err() {
                    return;
                }
                let (sink, frames) = Framed::new(stream, LengthDelimitedCodec::new()).split();
                // Writes when there is nothing more to read. A peer that goes away is its end.
                let _ = frames.map_ok(BytesMut::freeze).forward(sink).await;
            });
        }
    });
    Ok(address)
}

/// A connection to the echo.
pub(crate) struct Raw {
    frames: Framed<TcpStream, LengthDelimitedCodec>,
    payload: Bytes,
}

impl Raw {
    /// Connects; frames will have that many bytes.
    pub(crate) async fn connect(address: SocketAddr, payload: usize) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            frames: Framed::new(stream, LengthDelimitedCodec::new()),
            payload: vec![0x5a; payload].into(),
        })
    }

    pub(super) async fn sequential(&mut self, count: u32) -> Result<Vec<f64>, Failure> {
        let mut times = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let began = Instant::now();
            self.frames.send(self.payload.clone()).await?;
            let reply = self.frames.next().await;
            self.check(reply)?;
            times.push(microseconds(began));
        }
        Ok(times)
    }

    /// For each frame that comes, the next one goes; what has come together goes together.
    pub(super) async fn concurrent(
        &mut self,
        width: usize,
        time: Duration,
    ) -> Result<f64, Failure> {
        let began = Instant::now();
        for _ in 0..width {
            self.frames.feed(self.payload.clone()).await?;
        }
        flush(&mut self.frames).await?;
        let mut in_flight = width;
        let mut calls = 0_u32;
        while in_flight > 0 {
            let mut reply = Some(self.frames.next().await);
            while let Some(frame) = reply {
                self.check(frame)?;
                calls += 1;
                if began.elapsed() < time {
                    self.frames.feed(self.payload.clone()).await?;
                } else {
                    in_flight -= 1;
                }
                reply = if in_flight > 0 {
                    self.frames.next().now_or_never()
                } else {
                    None
                };
            }
            flush(&mut self.frames).await?;
        }
        Ok(f64::from(calls) / began.elapsed().as_secs_f64())
    }

    fn check(&self, reply: Option<std::io::Result<BytesMut>>) -> Result<(), Failure> {
        let reply = reply.ok_or("the echo closed the connection")??;
        if reply.len() == self.payload.len() {
            Ok(())
        } else {
            Err("the echo is not as long as what was sent".into())
        }
    }
}

/// Writes what was fed.
async fn flush(
    frames: &mut (impl Sink<Bytes, Error = std::io::Error> + Unpin),
) -> std::io::Result<()> {
    frames.flush().await
}
