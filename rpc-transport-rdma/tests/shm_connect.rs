//! Connecting by shared memory: the exchange over the bootstrap, strangers, refusals, and futures
//! dropped in the middle.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rdma_rpc_core::upgrade::Exchange;
use rdma_rpc_transport_rdma::shm::{
    ShmConfig, ShmConnecting, ShmError, ShmListener, ShmQueuePair, ShmTicket, upgrade_client,
    upgrade_server,
};
use rdma_rpc_transport_rdma::verbs::{
    Completed, Completion, Op, QueuePair, RemoteAddr, Status, WorkRequest,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::time::timeout;

mod line;
use line::line;

const NONE: Completion =
    Completion { what: Completed::Receive { imm: 0 }, status: Status::Success };

/// Whether the two are connected to each other.
fn talks(mut a: ShmQueuePair, mut b: ShmQueuePair) -> bool {
    b.post_receives(1).unwrap();
    let nowhere = RemoteAddr { addr: 0, rkey: 0 };
    let op = Op::Write { from: None, to: nowhere, imm: Some(77) };
    a.post_send(&[WorkRequest { id: 1, op, signaled: false }]).unwrap();
    let mut into = [NONE];
    b.poll(&mut into).unwrap() == 1 && into[0].what == Completed::Receive { imm: 77 }
}

#[tokio::test]
async fn the_exchange_ends_in_two_connected_queue_pairs() {
    let (mut server, mut client) = line();
    let config = ShmConfig::default();
    let (a, b) =
        tokio::join!(upgrade_server(&mut server, &config), upgrade_client(&mut client, &config));
    assert!(talks(a.unwrap(), b.unwrap()));
    assert!(server.from.try_recv().is_err() && client.from.try_recv().is_err(), "nothing is left");
}

#[tokio::test]
async fn sides_of_different_sizes_connect() {
    let ticket_holder = ShmListener::bind().unwrap();
    let ticket = ticket_holder.ticket().clone();
    let small = ShmConfig { receive_depth: 2, send_depth: 3, ..Default::default() };
    let large = ShmConfig { receive_depth: 4096, ..Default::default() };
    let (a, b) = tokio::join!(ticket_holder.accept(&small), ShmQueuePair::connect(&ticket, &large));
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    a.post_receives(2).unwrap();
    b.post_receives(4096).unwrap();
    let sends = |count: u32| -> Vec<_> {
        (0..count)
            .map(|word| WorkRequest { id: 0, op: Op::Send { word }, signaled: true })
            .collect()
    };
    b.post_send(&sends(3)).unwrap();
    a.post_send(&sends(3)).unwrap();
    let mut into = [NONE; 8];
    assert_eq!(b.poll(&mut into).unwrap(), 2 + 3, "two sends went, the third waits; three came");
}

#[tokio::test]
async fn a_refusal_reaches_the_other_end_with_its_reason() {
    let config = ShmConfig::default();
    let bad = ShmConfig { send_depth: 0, ..Default::default() };

    let (mut server, mut client) = line();
    let (a, b) =
        tokio::join!(upgrade_server(&mut server, &bad), upgrade_client(&mut client, &config));
    assert!(matches!(a, Err(ShmError::Config { .. })));
    let Err(ShmError::Refused { reason }) = b else { panic!("{b:?}") };
    assert!(reason.contains("send_depth"), "{reason}");

    let (mut server, mut client) = line();
    let (a, b) =
        tokio::join!(upgrade_server(&mut server, &config), upgrade_client(&mut client, &bad));
    assert!(matches!(b, Err(ShmError::Config { .. })));
    let Err(ShmError::Refused { reason }) = a else { panic!("{a:?}") };
    assert!(reason.contains("send_depth"), "{reason}");
    assert!(server.from.try_recv().is_err() && client.from.try_recv().is_err(), "nothing is left");
}

#[tokio::test]
async fn a_client_elsewhere_refuses_and_the_server_learns_why() {
    let (mut server, mut client) = line();
    let config = ShmConfig::default();
    let relocated = async {
        let mut offer = client.receive().await.unwrap();
        offer[10] ^= 0xFF;
        let (mut to_client, mut rewritten) = line();
        to_client.send(&offer).await.unwrap();
        let error = upgrade_client(&mut rewritten, &config).await.unwrap_err();
        client.send(&to_client.receive().await.unwrap()).await.unwrap();
        error
    };
    let (a, b) = tokio::join!(upgrade_server(&mut server, &config), relocated);
    assert!(matches!(b, ShmError::OtherHost { .. }), "{b}");
    let Err(ShmError::Refused { reason }) = a else { panic!("{a:?}") };
    assert!(reason.contains("not on this host"), "{reason}");
}

#[tokio::test]
async fn a_bootstrap_that_breaks_is_an_error_of_the_exchange() {
    let config = ShmConfig::default();
    let (mut server, client) = line();
    drop(client);
    assert!(upgrade_server(&mut server, &config).await.unwrap_err().is_exchange());
    let (server, mut client) = line();
    drop(server);
    assert!(upgrade_client(&mut client, &config).await.unwrap_err().is_exchange());
    let (mut server, mut client) = line();
    client.send(b"what?").await.unwrap();
    assert!(upgrade_server(&mut server, &config).await.unwrap_err().is_exchange());
}

fn raw_connection(ticket: &ShmTicket) -> rustix::io::Result<OwnedFd> {
    let hex: String = ticket.to_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let address = SocketAddrUnix::new_abstract_name(format!("rdma-rpc-{hex}").as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

#[tokio::test]
async fn strangers_do_not_keep_the_rightful_client_out() {
    let listener = ShmListener::bind().unwrap();
    let ticket = listener.ticket().clone();
    let config = ShmConfig { hello_timeout: Duration::from_millis(50), ..Default::default() };
    let silent = raw_connection(&ticket).unwrap();
    let rude = raw_connection(&ticket).unwrap();
    rustix::io::write(&rude, b"GET / HTTP/1.1\r\n").unwrap();
    let gone = raw_connection(&ticket).unwrap();
    drop(gone);
    let mut guessed = ticket.to_bytes();
    guessed[31] ^= 1;
    let guesser = ShmConnecting::start(&ShmTicket::from_bytes(guessed), &config).await.unwrap();
    let rightful = ShmQueuePair::connect(&ticket, &config);
    let (a, b) = tokio::join!(listener.accept(&config), rightful);
    assert!(talks(a.unwrap(), b.unwrap()));
    assert!(matches!(guesser.finish(&config).await, Err(ShmError::Misbehaved { .. })));
    drop((silent, rude));
}

#[tokio::test]
async fn a_dropped_accept_closes_the_socket() {
    let listener = ShmListener::bind().unwrap();
    let ticket = listener.ticket().clone();
    let config = ShmConfig::default();
    let silent = raw_connection(&ticket).unwrap();
    let accepted = timeout(Duration::from_millis(20), listener.accept(&config)).await;
    assert!(accepted.is_err(), "nobody said hello");
    let Err(ShmError::Verb(error)) = ShmQueuePair::connect(&ticket, &config).await else {
        panic!("the listener is gone")
    };
    assert_eq!(error.errno, rustix::io::Errno::CONNREFUSED.raw_os_error(), "{error}");
    assert_eq!(rustix::io::read(&silent, &mut [0; 8]), Ok(0), "the accepted socket is closed");
}

#[tokio::test]
async fn a_client_waits_for_a_full_backlog_within_its_callers_time() {
    let listener = ShmListener::bind().unwrap();
    let ticket = listener.ticket().clone();
    let config = ShmConfig { hello_timeout: Duration::from_millis(1), ..Default::default() };
    let mut crowd = Vec::new();
    while let Ok(socket) = raw_connection(&ticket) {
        crowd.push(socket);
    }
    let waits = timeout(Duration::from_millis(30), ShmQueuePair::connect(&ticket, &config)).await;
    assert!(waits.is_err(), "the backlog is full: {waits:?}");
    let (a, b) = tokio::join!(listener.accept(&config), ShmQueuePair::connect(&ticket, &config));
    assert!(talks(a.unwrap(), b.unwrap()));
    drop(crowd);
}
