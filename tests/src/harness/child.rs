//! Child processes: the server of the two-process tests, and others that a case may kill.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rdma_rpc::Server;
use rdma_rpc::config::ServerConfig;
use tokio::io::AsyncReadExt;

use crate::proto::test_service_server::TestServiceServer;
use crate::service::Conformance;

/// Carries a server's configuration, as TOML, to the child.
const SERVER_CONFIG: &str = "CONFORMANCE_SERVER_CONFIG";

/// The `conformance` binary: this one, or the one beside the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CONFORMANCE_BINARY") {
        return path.into();
    }
    let this = std::env::current_exe().expect("a process knows its program");
    if this.file_name().is_some_and(|name| name == "conformance") {
        return this;
    }
    // target/debug/deps/tcp-1a2b -> target/debug/conformance
    let folder = this.parent().and_then(|deps| deps.parent()).expect("tests lie in target/*/deps");
    folder.join("conformance")
}

/// A child process that is killed when it is dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Child {
    /// Starts the binary with these arguments on the client's host, which is this one.
    pub fn client(arguments: &[&str]) -> Child {
        Child::start(arguments, &[])
    }

    /// Starts the binary with these arguments, on this host.
    pub fn start(arguments: &[&str], variables: &[(&str, String)]) -> Child {
        Child::start_behind("", arguments, variables)
    }

    fn start_behind(prefix: &str, arguments: &[&str], variables: &[(&str, String)]) -> Child {
        let program = binary();
        let mut words = prefix.split_whitespace().map(PathBuf::from).chain([program.clone()]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut process = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let stdout = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        Child { process, stdout }
    }

    /// A server with this configuration, and the address it listens on.
    pub(super) fn server(config: &ServerConfig) -> (Child, String) {
        let text = toml::to_string(config).expect("a configuration is TOML");
        let prefix = std::env::var("CONFORMANCE_SERVER_PREFIX").unwrap_or_default();
        let mut child = Child::start_behind(&prefix, &["server"], &[(SERVER_CONFIG, text)]);
        let line = child.line();
        let address = line
            .strip_prefix("listening ")
            .unwrap_or_else(|| panic!("the server said {line:?} instead of where it listens"));
        let address = address.to_owned();
        (child, address)
    }

    /// The next line the child prints; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a child's output can be read");
        line.trim_end().to_owned()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.process.kill().expect("the child can be killed");
        self.process.wait().expect("the child can be awaited");
    }

    /// Closes the child's standard input, which tells it to end in order.
    pub fn close_stdin(&mut self) {
        drop(self.process.stdin.take());
    }

    /// Waits for its end; whether it ended well.
    pub fn wait(mut self) -> bool {
        self.close_stdin();
        self.process.wait().expect("the child can be awaited").success()
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Gone already when it was awaited; then this changes nothing.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server in a child process: serves until its standard input closes, lets open calls
/// finish, and ends.
pub async fn serve_until_stdin_closes() {
    let text = std::env::var(SERVER_CONFIG).unwrap_or_default();
    let config = ServerConfig::from_toml(&text).expect("the harness writes good configurations");
    let server = Server::builder()
        .config(config)
        .add_service(TestServiceServer::new(Conformance::default()))
        .bind()
        .await
        .expect("a server can listen");
    println!("listening {}", server.local_addresses().join(","));
    let closed = async {
        let mut rest = Vec::new();
        // An error is an end as well.
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    };
    server.serve_with_shutdown(closed).await;
    println!("stopped");
}
