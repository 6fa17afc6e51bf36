//! TCP on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rpc_bench_load::{Echo, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

/// Read at once where the reader does not know how much is coming.
const READ_BYTES: usize = 64 << 10;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Connection {
    socket: tokio::net::TcpStream,
    /// Used again when the last answer is gone: fresh memory would cost more than it shows.
    answer: BytesMut,
}

/// The lock is never waited for: these cases have one exchange open on a connection.
#[derive(Clone)]
pub(crate) struct Tokio(Arc<Mutex<Connection>>);

impl Echo for Tokio {
    async fn echo(&self, data: Bytes) -> Result<Bytes, String> {
        let mut connection = self.0.lock().await;
        let Connection { socket, answer } = &mut *connection;
        answer.reserve(data.len());
        let (mut read, mut write) = socket.split();
        // Together: two ends that only write, each with full buffers, would wait for ever.
        let sent = async { write.write_all(&data).await };
        let received = async {
            while answer.len() < data.len() {
                let missing = data.len() - answer.len();
                let mut rest = (&mut *answer).limit(missing);
                if read.read_buf(&mut rest).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(())
        };
        tokio::try_join!(sent, received).map_err(text)?;
        Ok(answer.split().freeze())
    }
}

pub(crate) async fn connect_tokio(options: Options) -> Result<Tokio, String> {
    let socket = tokio::net::TcpStream::connect(&options.addr).await.map_err(text)?;
    socket.set_nodelay(true).map_err(text)?;
    let connection = Connection { socket, answer: BytesMut::new() };
    Ok(Tokio(Arc::new(Mutex::new(connection))))
}

/// Writes back whatever has come: the server need not know how long a message is.
pub(crate) async fn serve_tokio(options: Options) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(&options.addr).await.map_err(text)?;
    rpc_bench_load::ready()?;
    loop {
        let (mut socket, _) = listener.accept().await.map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; READ_BYTES];
            while let Ok(bytes @ 1..) = socket.read(&mut buffer).await {
                if socket.write_all(&buffer[..bytes]).await.is_err() {
                    break;
                }
            }
        });
    }
}

pub(crate) fn serve_blocking(options: &Options) -> Result<(), String> {
    let listener = TcpListener::bind(&options.addr).map_err(text)?;
    rpc_bench_load::ready()?;
    loop {
        let (mut socket, _) = listener.accept().map_err(text)?;
        socket.set_nodelay(true).map_err(text)?;
        let mut length = [0; 8];
        socket.read_exact(&mut length).map_err(text)?;
        // Whole messages are answered whole; of a batch, what one read gave.
        let mut buffer = vec![0; u64::from_le_bytes(length) as usize];
        let whole = options.transport == "tcp-blocking";
        loop {
            let read = if whole {
                socket.read_exact(&mut buffer).map(|()| buffer.len())
            } else {
                socket.read(&mut buffer)
            };
            match read {
                Ok(bytes @ 1..) if socket.write_all(&buffer[..bytes]).is_ok() => {}
                _ => break,
            }
        }
    }
}

pub(crate) fn exchange_blocking(options: &Options) -> Result<String, String> {
    let mut socket = TcpStream::connect(&options.addr).map_err(text)?;
    socket.set_nodelay(true).map_err(text)?;
    let batch = if options.transport == "tcp-batch" { options.outstanding } else { 1 };
    let mut buffer = vec![1; options.payload * batch];
    let servers_buffer = if batch > 1 { READ_BYTES } else { buffer.len() };
    socket.write_all(&(servers_buffer as u64).to_le_bytes()).map_err(text)?;
    rpc_bench_load::blocking(options, batch as u64, || {
        socket.write_all(&buffer).map_err(text)?;
        socket.read_exact(&mut buffer).map_err(text)
    })
}
