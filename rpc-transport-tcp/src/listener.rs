//! Where a server waits for connections: a TCP port or a Unix socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use crate::address::Address;
#[cfg(target_os = "linux")]
use crate::congestion::Elsewhere;
use crate::socket::{Socket, SocketOptions};

/// How long a socket file must refuse connections before it counts as dead. Another server is in
/// that state only between its bind and its listen, which are microseconds apart.
const STALE_PROOF: Duration = Duration::from_millis(50);

/// How long to wait when the process or the system has no file descriptor or memory left for a
/// connection that is waiting to be accepted.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(50);

/// A listening socket.
///
/// A Unix listener removes its socket file when it is dropped, unless another server has put its
/// own there since.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: Address,
    options: SocketOptions,
}

#[derive(Debug)]
enum Kind {
    Tcp {
        listener: TcpListener,
        #[cfg(target_os = "linux")]
        elsewhere: Elsewhere,
    },
    Unix {
        listener: UnixListener,
        /// Held for its `drop`.
        _file: SocketFile,
    },
}

/// The file a Unix listener made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that only our own file is ever removed.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `address`. A Unix socket file left behind by a process that is gone is
    /// replaced; one that a living server answers on is not.
    ///
    /// # Errors
    /// If the address cannot be had; the text says why and what to do about it.
    pub async fn bind(address: &Address, options: &SocketOptions) -> io::Result<Listener> {
        let kind = match address {
            Address::Tcp { host, port } => {
                let bound = TcpListener::bind((host.as_str(), *port)).await;
                let listener = bound.map_err(|error| explain_bind(address, &error))?;
                Kind::Tcp {
                    #[cfg(target_os = "linux")]
                    elsewhere: Elsewhere::of(&listener),
                    listener,
                }
            }
            Address::Unix(path) => {
                let listener = match UnixListener::bind(path) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        remove_stale(path).await?;
                        UnixListener::bind(path)
                    }
                    other => other,
                }
                .map_err(|error| explain_bind(address, &error))?;
                let identity = identity_of(path)?;
                Kind::Unix { listener, _file: SocketFile { path: path.clone(), identity } }
            }
        };
        let address = match &kind {
            Kind::Tcp { listener, .. } => {
                let local = listener.local_addr()?;
                Address::Tcp { host: local.ip().to_string(), port: local.port() }
            }
            Kind::Unix { .. } => address.clone(),
        };
        Ok(Listener { kind, address, options: options.clone() })
    }

    /// Where it listens; a port of 0 has become the port the system chose.
    pub fn local_address(&self) -> &Address {
        &self.address
    }

    /// The next connection. Connections that ended while they waited are skipped; when the
    /// process is out of file descriptors, waits for some to come free and says so in the log.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// If the listening socket itself is broken.
    pub async fn accept(&self) -> io::Result<Socket> {
        let mut warned = false;
        loop {
            let accepted = match &self.kind {
                Kind::Tcp {
                    listener,
                    #[cfg(target_os = "linux")]
                    elsewhere,
                } => listener.accept().await.map(|(stream, _)| {
                    #[cfg(target_os = "linux")]
                    elsewhere.accepted(&stream);
                    Socket::from_tcp(stream, &self.options)
                }),
                Kind::Unix { listener, .. } => listener
                    .accept()
                    .await
                    .map(|(stream, _)| Socket::from_unix(stream, &self.options)),
            };
            match accepted {
                Ok(Ok(socket)) => return Ok(socket),
                // A peer that is gone already makes the first socket option fail.
                Ok(Err(error)) => {
                    tracing::debug!(address = %self.address, %error, "connection lost in accept");
                }
                Err(error) if concerns_one_connection(&error) => {
                    tracing::debug!(address = %self.address, %error, "connection lost in accept");
                }
                Err(error) if is_exhaustion(&error) => {
                    if !warned {
                        tracing::warn!(
                            address = %self.address, %error,
                            "cannot accept: raise the open file limit or lower max_connections"
                        );
                        warned = true;
                    }
                    tokio::time::sleep(EXHAUSTED_WAIT).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// accept(2) also reports what had already gone wrong with the new connection (`PermissionDenied`:
/// a firewall forbids it).
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::BrokenPipe
            | K::NotConnected
            | K::Interrupted
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::PermissionDenied
    )
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: the numbers are the same on every Linux but for ENOBUFS on
/// some processors, where it ends the accept loop with its own text.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

/// Removes the socket file at `path` if it can be proved that no process listens on it.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |why: &str| {
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("cannot listen on unix:{}: {why}", path.display()),
        ))
    };
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return in_use(
            "a file that is not a socket is there: move it away, or choose another path",
        );
    }
    const LIVING: &str = "another server answers there: stop it, or choose another path";
    if !refuses(path)? {
        return in_use(LIVING);
    }
    tokio::time::sleep(STALE_PROOF).await;
    if !refuses(path)? {
        return in_use(LIVING);
    }
    // Between the check and the removal another starter may have replaced the file. So it is
    // moved aside, checked once more under a name nobody else uses, and put back if it lives.
    let aside = path.with_extension(format!("stale-{}", std::process::id()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    if refuses(&aside)? {
        fs::remove_file(&aside)?;
        tracing::info!(path = %path.display(), "removed the socket file of a server that is gone");
        return Ok(());
    }
    fs::hard_link(&aside, path)?;
    fs::remove_file(&aside)?;
    in_use(LIVING)
}

/// Whether nobody listens on the socket file.
fn refuses(path: &Path) -> io::Result<bool> {
    let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&socket2::SockAddr::unix(path)?) {
        Ok(()) => Ok(false),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(true),
            // Its queue of waiting connections is full: it lives.
            io::ErrorKind::WouldBlock => Ok(false),
            _ => Err(io::Error::new(
                error.kind(),
                format!("cannot tell whether a server listens on {}: {error}", path.display()),
            )),
        },
    }
}

fn explain_bind(address: &Address, error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another process listens there; stop it (`ss -ltnp` shows it), or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            ": this host has no such address (`ip address` lists them; 0.0.0.0 or [::] takes all)"
        }
        io::ErrorKind::PermissionDenied => {
            ": this user may not; ports below 1024 need a privilege, a Unix path a writable folder"
        }
        io::ErrorKind::NotFound => ": make the folder of the socket first",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn options() -> SocketOptions {
        SocketOptions::default()
    }

    async fn try_connect(address: &Address) -> io::Result<Socket> {
        Socket::connect(address, &options(), Instant::now() + Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_port_in_use_says_so() {
        let first = Listener::bind(&"127.0.0.1:0".parse().unwrap(), &options()).await.unwrap();
        let error = Listener::bind(first.local_address(), &options()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&first.local_address().to_string()), "{error}");
        assert!(error.to_string().contains("ss -ltnp"), "{error}");
    }

    #[tokio::test]
    async fn both_kinds_accept() {
        let folder = tempfile::tempdir().unwrap();
        let unix = Address::unix(folder.path().join("s")).unwrap();
        for address in ["127.0.0.1:0".parse().unwrap(), unix] {
            let listener = Listener::bind(&address, &options()).await.unwrap();
            let (client, server) =
                tokio::join!(try_connect(listener.local_address()), listener.accept());
            let (client, server) = (client.unwrap(), server.unwrap());
            assert_eq!(client.is_unix(), server.is_unix());
            assert_eq!(client.peer_text(), server.local_text());
            assert_ne!(server.peer_text(), "unix:");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_ours_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv.sock");
        // std's listener does not remove its file: what a killed server leaves behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let address = Address::unix(&path).unwrap();
        let listener = Listener::bind(&address, &options()).await.unwrap();
        try_connect(&address).await.unwrap();
        drop(listener);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_living_server_and_a_plain_file_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv.sock");
        let address = Address::unix(&path).unwrap();
        let living = Listener::bind(&address, &options()).await.unwrap();
        let error = Listener::bind(&address, &options()).await.unwrap_err();
        assert!(error.to_string().contains("another server answers"), "{error}");
        try_connect(&address).await.unwrap();
        drop(living);

        fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&address, &options()).await.unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_successors_file_survives_our_drop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv.sock");
        let address = Address::unix(&path).unwrap();
        let old = Listener::bind(&address, &options()).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _new = Listener::bind(&address, &options()).await.unwrap();
        drop(old);
        try_connect(&address).await.unwrap();
    }
}
