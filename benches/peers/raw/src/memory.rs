//! What two processes on one host can do without a network: wake each other, write to memory that
//! both have, read each other's memory. They meet on a Unix socket, which carries descriptors once
//! and is then only the sign that the other is there.

use std::hint::black_box;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use rpc_bench_load::{Options, blocking};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{PTracer, set_ptracer};

const PAGE_BYTES: usize = 4096;
/// Words of the page that only one end writes, far enough apart for cache lines of their own.
const ASKED: usize = 0;
const ANSWERED: usize = 256;
const WORD_BYTES: u64 = 8;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(crate) fn serve(options: &Options) -> Result<(), String> {
    let listener = UnixListener::bind(&options.addr).map_err(text)?;
    rpc_bench_load::ready()?;
    loop {
        let (socket, _) = listener.accept().map_err(text)?;
        match options.transport.as_str() {
            "eventfd" => {
                let (asked, answered) = (new_eventfd()?, new_eventfd()?);
                send(&socket, 0, &[asked.as_fd(), answered.as_fd()])?;
                // Until the process ends: nobody can be told of a peer by an eventfd.
                loop {
                    take(&asked)?;
                    give(&answered)?;
                }
            }
            "memory" => {
                let file = memfd_create("raw", MemfdFlags::CLOEXEC).map_err(text)?;
                ftruncate(&file, PAGE_BYTES as u64).map_err(text)?;
                let page = Page::map(&file)?;
                send(&socket, 0, &[file.as_fd()])?;
                for turn in 1.. {
                    while page.word(ASKED).load(Acquire) != turn {}
                    page.word(ANSWERED).store(turn, Release);
                }
            }
            _ => {
                // Where only a parent may read a process, the process can allow others to.
                let _ = set_ptracer(PTracer::Any);
                let mut length = [0; 8];
                (&socket).read_exact(&mut length).map_err(text)?;
                let memory = vec![5_u8; u64::from_le_bytes(length) as usize];
                send(&socket, memory.as_ptr() as u64, &[])?;
                // Nothing to do but be read.
                let _ = (&socket).read(&mut [0]);
                black_box(&memory);
            }
        }
    }
}

pub(crate) fn exchange(options: &Options) -> Result<String, String> {
    let socket = UnixStream::connect(&options.addr).map_err(text)?;
    match options.transport.as_str() {
        "eventfd" => {
            let (_, descriptors) = receive(&socket)?;
            let [asked, answered] = &descriptors[..] else { return Err("no eventfds".into()) };
            blocking(options, 1, || {
                give(asked)?;
                take(answered)
            })
        }
        "memory" => {
            let (_, descriptors) = receive(&socket)?;
            let [file] = &descriptors[..] else { return Err("no memory".into()) };
            let page = Page::map(file)?;
            let mut turn = 0;
            blocking(options, 1, || {
                turn += 1;
                page.word(ASKED).store(turn, Release);
                while page.word(ANSWERED).load(Acquire) != turn {}
                Ok(())
            })
        }
        _ => {
            (&socket).write_all(&(options.payload as u64).to_le_bytes()).map_err(text)?;
            let (address, _) = receive(&socket)?;
            let server = options.server_pid.ok_or("vm-readv needs --server-pid")?;
            let mut memory = vec![0_u8; options.payload];
            blocking(options, 1, || read_peer(server, address, &mut memory))
        }
    }
}

fn read_peer(process: u32, address: u64, into: &mut [u8]) -> Result<(), String> {
    let near = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let far = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: `near` is the memory of `into`, borrowed for writing; `far` is only read, and the
    // kernel checks that the other process has it.
    let bytes = unsafe { libc::process_vm_readv(process as libc::pid_t, &near, 1, &far, 1, 0) };
    if bytes == into.len() as isize {
        return Ok(());
    }
    Err(format!("process_vm_readv: {bytes}, {}", std::io::Error::last_os_error()))
}

fn new_eventfd() -> Result<OwnedFd, String> {
    eventfd(0, EventfdFlags::CLOEXEC).map_err(text)
}

fn give(counter: &OwnedFd) -> Result<(), String> {
    rustix::io::write(counter, &1_u64.to_ne_bytes()).map(drop).map_err(text)
}

fn take(counter: &OwnedFd) -> Result<(), String> {
    rustix::io::read(counter, &mut [0_u8; WORD_BYTES as usize]).map(drop).map_err(text)
}

/// A page both processes have; it is never unmapped.
struct Page(*mut u8);

impl Page {
    fn map(file: &OwnedFd) -> Result<Page, String> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place of the kernel's choice, of memory that is never cut.
        let start =
            unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, access, MapFlags::SHARED, file, 0) };
        start.map(|start| Page(start.cast())).map_err(text)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: both offsets are aligned and inside the page, which is never unmapped; both
        // processes use the words as atomics only.
        unsafe { AtomicU64::from_ptr(self.0.add(offset).cast()) }
    }
}

/// One number, and descriptors.
fn send(socket: &UnixStream, number: u64, descriptors: &[BorrowedFd<'_>]) -> Result<(), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let bytes = number.to_le_bytes();
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty())
        .map(drop)
        .map_err(text)
}

fn receive(socket: &UnixStream) -> Result<(u64, Vec<OwnedFd>), String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; WORD_BYTES as usize];
    recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(text)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((u64::from_le_bytes(bytes), descriptors.flatten().collect()))
}
