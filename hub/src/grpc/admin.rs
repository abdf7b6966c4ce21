//! The operators' gRPC door: takes the caller that the interceptor checked, calls the verb, maps its error.
use super::status::{no_caller, status};
use crate::api::{Api, Caller};
use futures_util::{Stream, StreamExt as _};
use redforge_shared::wire::pb::{self, admin_server::Admin, admin_server::AdminServer};
use std::{pin::Pin, sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming};

/// Largest message in: a set of manifests is at most 1 MiB.
const MAX_MESSAGE_BYTES: usize = 2 << 20;
/// Largest message out: a page of 1,000 instances with their specs.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Bytes of one message of a flow set that goes out.
const PIECE_BYTES: usize = 256 << 10;
/// A sender that is silent for this long has given up.
const SILENCE: Duration = Duration::from_secs(30);

/// The door.
#[derive(Clone, Debug)]
pub struct Service {
    api: Arc<Api>,
}

/// The service with its limits set.
pub fn service(api: Arc<Api>) -> AdminServer<Service> {
    AdminServer::new(Service { api })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES)
}

fn taken<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let caller = request.extensions().get::<Caller>().cloned().ok_or_else(no_caller)?;
    Ok((caller, request.into_inner()))
}

/// The door's methods: those listed are one verb each, the rest are streams and written out.
macro_rules! door {
    ({ $($verb:ident: $request:ident -> $response:ident),+ $(,)? } $($written:tt)*) => {
        #[tonic::async_trait]
        impl Admin for Service {
            $(async fn $verb(&self, request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                let (caller, request) = taken(request)?;
                self.api.$verb(&caller, request).await.map(Response::new).map_err(|e| status(&e))
            })+
            $($written)*
        }
    };
}

door! {
    {
        apply: ApplyRequest -> ApplyResponse,
        delete_instance: DeleteInstanceRequest -> DeleteInstanceResponse,
        rollback_instance: RollbackInstanceRequest -> RollbackInstanceResponse,
        list_sites: ListSitesRequest -> ListSitesResponse,
        get_site: GetSiteRequest -> Site,
        list_hosts: ListHostsRequest -> ListHostsResponse,
        get_host: GetHostRequest -> Host,
        list_instances: ListInstancesRequest -> ListInstancesResponse,
        get_instance: GetInstanceRequest -> Instance,
        list_flow_sets: ListFlowSetsRequest -> ListFlowSetsResponse,
        list_flow_set_drafts: ListFlowSetDraftsRequest -> ListFlowSetDraftsResponse,
        rollback_flow_set: RollbackFlowSetRequest -> RollbackFlowSetResponse,
        adopt_flow_set_draft: AdoptFlowSetDraftRequest -> PushFlowSetResponse,
        upload_blob: UploadBlobRequest -> UploadBlobResponse,
        create_artifact: CreateArtifactRequest -> CreateArtifactResponse,
        list_artifacts: ListArtifactsRequest -> ListArtifactsResponse,
        delete_artifact: DeleteArtifactRequest -> DeleteArtifactResponse,
        create_token: CreateTokenRequest -> CreateTokenResponse,
        list_streams: ListStreamsRequest -> ListStreamsResponse,
        list_collections: ListCollectionsRequest -> ListCollectionsResponse,
        search: SearchRequest -> SearchResponse,
        list_events: ListEventsRequest -> ListEventsResponse,
        resume_host: ResumeHostRequest -> Host,
    }

    async fn push_flow_set(
        &self,
        request: Request<Streaming<pb::PushFlowSetRequest>>,
    ) -> Result<Response<pb::PushFlowSetResponse>, Status> {
        use pb::push_flow_set_request::Message;
        let (caller, mut messages) = taken(request)?;
        let Some(Message::Header(header)) = next(&mut messages).await? else {
            return Err(Status::invalid_argument("the first message must be the header"));
        };
        let mut upload = self.api.begin_push(&caller, &header).map_err(|e| status(&e))?;
        while let Some(message) = next(&mut messages).await? {
            let Message::Chunk(data) = message else {
                return Err(Status::invalid_argument("the header came twice"));
            };
            upload.chunk(&data).map_err(|e| status(&e))?;
        }
        self.api.finish_push(&caller, upload).await.map(Response::new).map_err(|e| status(&e))
    }

    type PullFlowSetStream = Pin<Box<dyn Stream<Item = Result<pb::PullFlowSetResponse, Status>> + Send>>;

    async fn pull_flow_set(
        &self,
        request: Request<pb::PullFlowSetRequest>,
    ) -> Result<Response<Self::PullFlowSetStream>, Status> {
        use pb::pull_flow_set_response::Message;
        let (caller, request) = taken(request)?;
        let mut download = self.api.pull_flow_set(&caller, request).await.map_err(|e| status(&e))?;
        let header = Message::Header(std::mem::take(&mut download.header));
        let pieces = download.tar.len().div_ceil(PIECE_BYTES);
        // The download is kept until its last piece went out, and its place with it.
        let piece = move |i: usize| {
            let end = download.tar.len().min((i + 1) * PIECE_BYTES);
            Message::Chunk(download.tar[i * PIECE_BYTES..end].to_vec().into())
        };
        let messages = std::iter::once(header).chain((0..pieces).map(piece));
        let messages = messages.map(|m| Ok(pb::PullFlowSetResponse { message: Some(m) }));
        Ok(Response::new(Box::pin(futures_util::stream::iter(messages))))
    }

    type ListRecordsStream = Pin<Box<dyn Stream<Item = Result<pb::Record, Status>> + Send>>;

    async fn list_records(
        &self,
        request: Request<pb::ListRecordsRequest>,
    ) -> Result<Response<Self::ListRecordsStream>, Status> {
        let (caller, request) = taken(request)?;
        let records = self.api.list_records(&caller, request).map_err(|e| status(&e))?;
        Ok(Response::new(Box::pin(records.map(|r| r.map_err(|e| status(&e))))))
    }
}

/// The next message of an upload; one without content is skipped over as if it had not come.
async fn next(
    messages: &mut Streaming<pb::PushFlowSetRequest>,
) -> Result<Option<pb::push_flow_set_request::Message>, Status> {
    loop {
        let message = tokio::time::timeout(SILENCE, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no piece of the flow set came for 30 seconds"))??;
        match message {
            None => return Ok(None),
            Some(pb::PushFlowSetRequest { message: None }) => {}
            Some(pb::PushFlowSetRequest { message: Some(message) }) => return Ok(Some(message)),
        }
    }
}
