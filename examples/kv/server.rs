//! The service: from messages to the store and back.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use rdma_rpc::metadata::MetadataMap;
use rdma_rpc::{Request, Response, Status, Streaming};
use tokio::sync::broadcast::error::RecvError;

use crate::proto::kv_server::Kv;
use crate::proto::{
    BatchPutReply, Change, DeleteReply, DeleteRequest, Entry, GetRequest, PutReply, PutRequest,
    ScanRequest, WatchRequest,
};
use crate::store::{MAX_SCAN, Page, Store, check_key};

/// The metadata key in which clients say who they are.
pub const CLIENT: &str = "kv-client";
/// The trailer in which a scan says whether there are more entries.
pub const MORE: &str = "kv-more";
/// The longest name of a client.
const MAX_CLIENT_BYTES: usize = 64;

/// Serves a store.
#[derive(Debug)]
pub struct Service {
    pub store: Arc<Store>,
}

impl Kv for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Entry>, Status> {
        let GetRequest { key } = request.into_inner();
        check_key(&key)?;
        Ok(Response::new(self.store.get(&key)?))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        let client = client_of(request.metadata())?;
        let version = self.store.put(request.into_inner(), &client)?;
        Ok(Response::new(PutReply { version }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        let client = client_of(request.metadata())?;
        let DeleteRequest { key } = request.into_inner();
        check_key(&key)?;
        let version = self.store.delete(&key, &client)?;
        Ok(Response::new(DeleteReply { version }))
    }

    type ScanStream = BoxStream<'static, Result<Entry, Status>>;

    async fn scan(
        &self,
        request: Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let ScanRequest { prefix, after, limit, keys_only } = request.into_inner();
        let limit = if limit == 0 { MAX_SCAN } else { limit as usize };
        if limit > MAX_SCAN {
            let text = format!("limit {limit}: at most {MAX_SCAN}, then go on with `after`");
            return Err(Status::invalid_argument(text));
        }
        let Page { entries, more } = self.store.scan(&prefix, &after, limit, keys_only);
        let mut response = Response::new(stream::iter(entries.into_iter().map(Ok)).boxed());
        let more = if more { "true" } else { "false" };
        response.trailers_mut().insert(MORE, more.parse().map_err(internal)?);
        Ok(response)
    }

    async fn batch_put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<BatchPutReply>, Status> {
        let client = client_of(request.metadata())?;
        let mut puts = request.into_inner();
        let mut reply = BatchPutReply::default();
        while let Some(put) = puts.message().await? {
            reply.version = self.store.put(put, &client).map_err(|status| {
                Status::new(status.code(), format!("entry {}: {}", reply.count, status.message()))
            })?;
            reply.count += 1;
        }
        Ok(Response::new(reply))
    }

    type WatchStream = BoxStream<'static, Result<Change, Status>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest { prefix } = request.into_inner();
        let changes = self.store.watch().ok_or_else(closing)?;
        let changes = stream::unfold(Some(changes), |changes| async {
            let mut changes = changes?;
            match changes.recv().await {
                Ok(change) => Some((Ok(change), Some(changes))),
                Err(RecvError::Closed) => Some((Err(closing()), None)),
                Err(RecvError::Lagged(missed)) => {
                    let text = format!("{missed} changes were missed: scan, and watch again");
                    Some((Err(Status::aborted(text)), None))
                }
            }
        });
        let wanted = changes.filter(move |change| {
            let wanted = change.as_ref().map_or(true, |change| change.key.starts_with(&prefix));
            std::future::ready(wanted)
        });
        Ok(Response::new(wanted.boxed()))
    }
}

/// Who makes the call; empty if they do not say.
fn client_of(metadata: &MetadataMap) -> Result<String, Status> {
    let Some(name) = metadata.get(CLIENT) else { return Ok(String::new()) };
    let name = name
        .to_str()
        .map_err(|error| Status::invalid_argument(format!("metadata `{CLIENT}`: {error}")))?;
    if name.len() > MAX_CLIENT_BYTES {
        return Err(Status::invalid_argument(format!(
            "metadata `{CLIENT}` has {} bytes; {MAX_CLIENT_BYTES} may be",
            name.len()
        )));
    }
    Ok(name.to_owned())
}

fn closing() -> Status {
    Status::unavailable("the server is shutting down")
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
