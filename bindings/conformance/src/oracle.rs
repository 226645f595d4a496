//! A node that answers as it is asked to: the last digits of a VM's id say with which error, and those of
//! [`SILENT`] with none at all.

use std::io;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The id of a VM of which nothing is said, ever.
pub(crate) const SILENT: &str = "00000000-0000-4000-8000-00000000ffff";

/// Types of frames, by their numbers in the protocol.
const AUTH: u8 = 0x01;
const VM: u8 = 0x02;
const OK: u8 = 0x10;
const ERROR: u8 = 0x11;
const PING: u8 = 0x16;
const PONG: u8 = 0x17;
/// Longer requests than this are not for the oracle.
const LENGTH_MAX: usize = 64 << 10;

/// The id of the VM that is answered with this code.
pub(crate) fn id_of(code: u32) -> String {
    format!("00000000-0000-4000-8000-{code:012x}")
}

/// It listens as long as it is there.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Oracle {
    pub(crate) async fn start() -> io::Result<Oracle> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Ok(Oracle { port, task })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A frame without its length: version, type, time, id, payload.
struct Frame {
    kind: u8,
    id: Vec<u8>,
    payload: Vec<u8>,
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let frame = read(&mut stream).await?;
        let (kind, payload) = match frame.kind {
            AUTH => (
                OK,
                json!({"success": true, "message": "", "features": ["x3.1"]}),
            ),
            PING => (PONG, json!({})),
            VM => {
                let text = String::from_utf8_lossy(&frame.payload);
                if text.contains(SILENT) {
                    continue;
                }
                (ERROR, json!({"code": code(&text), "message": "as asked"}))
            }
            // What is taken back is not answered otherwise.
            _ => continue,
        };
        write(&mut stream, kind, &frame.id, payload.to_string().as_bytes()).await?;
    }
}

/// The code in the id of the VM.
fn code(request: &str) -> u32 {
    let digits = request.split("00000000-0000-4000-8000-").nth(1);
    let digits = digits.and_then(|rest| rest.get(..12));
    digits
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or_default()
}

async fn read(stream: &mut TcpStream) -> io::Result<Frame> {
    let length = stream.read_u32().await? as usize;
    if !(16..=LENGTH_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let id_end = 12 + usize::from(u16::from_be_bytes([bytes[10], bytes[11]]));
    let (Some(id), Some(payload)) = (bytes.get(12..id_end), bytes.get(id_end + 4..)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok(Frame {
        kind: bytes[1],
        id: id.to_vec(),
        payload: payload.to_vec(),
    })
}

async fn write(stream: &mut TcpStream, kind: u8, id: &[u8], payload: &[u8]) -> io::Result<()> {
    let len = |bytes: usize| u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData);
    let mut bytes = len(16 + id.len() + payload.len())?.to_be_bytes().to_vec();
    bytes.extend([3, kind]);
    bytes.extend(1_700_000_000_u64.to_be_bytes());
    bytes.extend(
        u16::try_from(id.len())
            .map_err(|_| io::ErrorKind::InvalidData)?
            .to_be_bytes(),
    );
    bytes.extend(id);
    bytes.extend(len(payload.len())?.to_be_bytes());
    bytes.extend(payload);
    stream.write_all(&bytes).await
}
