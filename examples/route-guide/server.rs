//! The guide: one method of each kind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use rdma_rpc::{Request, Response, Status, Streaming};

use crate::geometry::{contains, distance_m};
use crate::proto::route_guide_server::RouteGuide;
use crate::proto::{Feature, Point, Rectangle, RouteNote, RouteSummary};

/// The most notes kept for one point, and for all: a guest book has a last page.
const NOTES_PER_POINT: usize = 100;
const NOTED_POINTS: usize = 10_000;

/// The places, and the notes people left.
pub struct Guide {
    features: Vec<Feature>,
    notes: Arc<Mutex<HashMap<Point, Vec<RouteNote>>>>,
}

impl Guide {
    pub fn new(features: Vec<Feature>) -> Guide {
        Guide { features, notes: Arc::default() }
    }

    fn feature_at(&self, point: &Point) -> Option<&Feature> {
        self.features.iter().find(|feature| feature.location.as_ref() == Some(point))
    }
}

impl RouteGuide for Guide {
    async fn get_feature(&self, request: Request<Point>) -> Result<Response<Feature>, Status> {
        let point = request.into_inner();
        let nothing = || Feature { name: String::new(), location: Some(point) };
        Ok(Response::new(self.feature_at(&point).cloned().unwrap_or_else(nothing)))
    }

    type ListFeaturesStream = BoxStream<'static, Result<Feature, Status>>;

    async fn list_features(
        &self,
        request: Request<Rectangle>,
    ) -> Result<Response<Self::ListFeaturesStream>, Status> {
        let rectangle = request.into_inner();
        let inside: Vec<Feature> = self
            .features
            .iter()
            .filter(|feature| {
                feature.location.as_ref().is_some_and(|point| contains(&rectangle, point))
            })
            .cloned()
            .collect();
        Ok(Response::new(stream::iter(inside).map(Ok).boxed()))
    }

    async fn record_route(
        &self,
        request: Request<Streaming<Point>>,
    ) -> Result<Response<RouteSummary>, Status> {
        let started = Instant::now();
        let mut points = request.into_inner();
        let mut summary = RouteSummary::default();
        let mut before: Option<Point> = None;
        let mut distance = 0.0;
        while let Some(point) = points.message().await? {
            summary.point_count += 1;
            summary.feature_count += u32::from(self.feature_at(&point).is_some());
            distance += before.map_or(0.0, |before| distance_m(&before, &point));
            before = Some(point);
        }
        summary.distance_m = distance.round() as u32;
        summary.elapsed_ms = started.elapsed().as_millis() as u32;
        Ok(Response::new(summary))
    }

    type RouteChatStream = BoxStream<'static, Result<RouteNote, Status>>;

    async fn route_chat(
        &self,
        request: Request<Streaming<RouteNote>>,
    ) -> Result<Response<Self::RouteChatStream>, Status> {
        let notes = Arc::clone(&self.notes);
        // The next note is read when its predecessor's answers are on their way: a client that
        // does not read is not read from either.
        let answers = request
            .into_inner()
            .map(move |note| leave_note(&notes, note?).map(|earlier| stream::iter(earlier).map(Ok)))
            .try_flatten();
        Ok(Response::new(answers.boxed()))
    }
}

/// Leaves a note at its point; gives those that were there before.
fn leave_note(
    notes: &Mutex<HashMap<Point, Vec<RouteNote>>>,
    note: RouteNote,
) -> Result<Vec<RouteNote>, Status> {
    let point = note
        .location
        .ok_or_else(|| Status::invalid_argument("a note needs a place: `location` is missing"))?;
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    if notes.len() == NOTED_POINTS && !notes.contains_key(&point) {
        return Err(Status::resource_exhausted("there are notes at too many points"));
    }
    let here = notes.entry(point).or_default();
    if here.len() == NOTES_PER_POINT {
        return Err(Status::resource_exhausted("there are too many notes at this point"));
    }
    let earlier = here.clone();
    here.push(note);
    Ok(earlier)
}
