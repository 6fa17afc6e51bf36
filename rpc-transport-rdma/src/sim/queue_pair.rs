//! The verbs of a simulated queue pair.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rdma_rpc_core::upgrade::Liveness;

use super::fabric::{Action, QpState, Registered, Request, Shared};
use super::memory::{Memory, SimRegion};
use crate::verbs::{
    Access, Caps, Completion, Local, Op, PostError, QueuePair, Region, RemoteAddr, VerbError,
    WorkRequest,
};

const EINVAL: i32 = 22;

/// A simulated queue pair.
pub struct SimQueuePair {
    fabric: Arc<Shared>,
    index: usize,
    /// Copies of what is lent.
    lent: Vec<SimRegion>,
}

impl SimQueuePair {
    pub(super) fn new(fabric: Arc<Shared>, index: usize) -> SimQueuePair {
        SimQueuePair { fabric, index, lent: Vec::new() }
    }

    fn request(&self, request: &WorkRequest<'_, SimRegion>) -> Result<Request, VerbError> {
        let action = match request.op {
            Op::Write { from, to, imm } => {
                let from = from.map(|local| self.local(local)).transpose()?;
                Action::Write { from, to, imm }
            }
            Op::WriteWord { word, to } => {
                if !to.addr.is_multiple_of(8) {
                    return Err(invalid(format!("word at address {:#x}", to.addr)));
                }
                Action::Word { word, to }
            }
            Op::Read { into, from } => Action::Read { into: self.local(into)?, from },
            Op::Send { word } => Action::Send { word },
        };
        Ok(Request { id: request.id, signaled: request.signaled, action })
    }

    /// Checks a stretch of our own memory, and shows its contents to the device.
    fn local(&self, local: Local<'_, SimRegion>) -> Result<(Arc<Memory>, usize, usize), VerbError> {
        let end = local.offset.checked_add(local.len);
        if local.region.owner != self.index || end.is_none_or(|end| end > local.region.len()) {
            return Err(invalid(format!(
                "{} bytes at offset {} of {:?}",
                local.len, local.offset, local.region
            )));
        }
        local.region.publish();
        Ok((local.region.memory.clone(), local.offset, local.len))
    }
}

fn invalid(context: String) -> VerbError {
    VerbError { verb: "sim_post_send", errno: EINVAL, context }
}

impl fmt::Debug for SimQueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimQueuePair").field("index", &self.index).finish_non_exhaustive()
    }
}

impl QueuePair for SimQueuePair {
    type Region = SimRegion;

    fn caps(&self) -> Caps {
        let config = self.fabric.lock().qps[self.index].config;
        Caps {
            send_depth: config.send_depth,
            receive_depth: config.receive_depth,
            write_with_imm: config.write_with_imm,
            inline_bytes: 0,
            reads_in_flight: config.reads_in_flight,
            lends_from_bytes: config.lends.then_some(0),
            views: config.views,
        }
    }

    fn device(&self) -> String {
        format!("sim{}", self.index)
    }

    fn register(&mut self, len: usize, access: Access) -> Result<SimRegion, VerbError> {
        let memory = Memory::new(len);
        let mut state = self.fabric.lock();
        let state = &mut *state;
        let bulk = matches!(access, Access::RemoteRead | Access::ReadTarget);
        if bulk && state.rng.chance(state.qps[self.index].config.no_memory) {
            let errno = rustix::io::Errno::NOMEM.raw_os_error();
            return Err(VerbError { verb: "register", errno, context: "as the seed says".into() });
        }
        let rkey = loop {
            let rkey = state.rng.bits() as u32;
            if !state.qps[self.index].regions.contains_key(&rkey) {
                break rkey;
            }
        };
        let base = (state.rng.bits() >> 16) & !0xFFF;
        let registered = Registered { base, len, access, memory: memory.clone() };
        state.qps[self.index].regions.insert(rkey, registered);
        let at = RemoteAddr { addr: base, rkey };
        Ok(SimRegion::new(self.fabric.clone(), self.index, memory, at, len, access))
    }

    fn view(&mut self, of: RemoteAddr, len: usize) -> Result<SimRegion, VerbError> {
        let state = self.fabric.lock();
        let peer = state.qps[self.index].peer;
        let found = state.qps[peer].regions.get(&of.rkey).filter(|region| {
            region.access == Access::Viewed && region.base == of.addr && len <= region.len
        });
        let memory = found.map(|region| region.memory.clone());
        drop(state);
        let memory = memory.ok_or_else(|| invalid(format!("no memory to view at {of:?}")))?;
        Ok(SimRegion::of_peer(self.fabric.clone(), self.index, memory, len))
    }

    fn lend(&mut self, bytes: &Bytes) -> Option<RemoteAddr> {
        self.caps().lends_from_bytes?;
        let mut region = self.register(bytes.len(), Access::RemoteRead).ok()?;
        region.bytes_mut().copy_from_slice(bytes);
        let at = region.remote();
        self.lent.push(region);
        Some(at)
    }

    fn take_back(&mut self, lent: RemoteAddr) {
        let index = self.lent.iter().position(|region| region.remote() == lent);
        self.lent.swap_remove(index.expect("only what was lent is taken back, once"));
    }

    fn post_send(&mut self, list: &[WorkRequest<'_, SimRegion>]) -> Result<(), PostError> {
        let requests: Result<Vec<Request>, VerbError> =
            list.iter().map(|request| self.request(request)).collect();
        let requests = requests.map_err(PostError::Verb)?;
        let mut state = self.fabric.lock();
        let state = &mut *state;
        let qp = &mut state.qps[self.index];
        if qp.state != QpState::Ready {
            return Err(PostError::Failed);
        }
        let count = list.len() as u32;
        let pretend = state.rng.chance(qp.config.post_full);
        if pretend || qp.slots_used + count > qp.config.send_depth {
            return Err(PostError::Full);
        }
        if !qp.config.write_with_imm
            && list.iter().any(|r| matches!(r.op, Op::Write { imm: Some(_), .. }))
        {
            return Err(PostError::Verb(invalid("this device has no immediates".into())));
        }
        qp.slots_used += count;
        qp.queue.extend(requests);
        Ok(())
    }

    fn post_receives(&mut self, count: u32) -> Result<(), PostError> {
        let mut state = self.fabric.lock();
        let qp = &mut state.qps[self.index];
        if qp.state != QpState::Ready {
            return Err(PostError::Failed);
        }
        if qp.receives + count > qp.config.receive_depth {
            return Err(PostError::Full);
        }
        qp.receives += count;
        Ok(())
    }

    fn poll(&mut self, into: &mut [Completion]) -> Result<usize, VerbError> {
        Ok(self.fabric.lock().poll(self.index, into))
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), VerbError>> {
        let mut state = self.fabric.lock();
        let qp = &mut state.qps[self.index];
        if qp.visible != [0, 0] {
            return Poll::Ready(Ok(()));
        }
        qp.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn fail(&mut self) {
        self.fabric.act(|state| state.fail(self.index, None));
    }
}

impl Drop for SimQueuePair {
    fn drop(&mut self) {
        self.fabric.act(|state| state.destroy(self.index));
    }
}

/// The bootstrap connection of a simulated end.
pub struct SimLiveness {
    fabric: Arc<Shared>,
    index: usize,
}

impl SimLiveness {
    pub(super) fn new(fabric: Arc<Shared>, index: usize) -> SimLiveness {
        SimLiveness { fabric, index }
    }
}

impl fmt::Debug for SimLiveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLiveness").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Liveness for SimLiveness {
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut state = self.fabric.lock();
        let qp = &mut state.qps[self.index];
        if qp.liveness_closed {
            return Poll::Ready(io::Error::new(io::ErrorKind::UnexpectedEof, "simulated close"));
        }
        qp.liveness_waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimLiveness {
    fn drop(&mut self) {
        self.fabric.act(|state| state.close_liveness_of_peer(self.index));
    }
}
