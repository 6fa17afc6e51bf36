//! A visit to the guide, which says what it does.

use std::error::Error;

use futures_util::stream;
use rdma_rpc::Channel;

use crate::geometry::{features, show};
use crate::proto::route_guide_client::RouteGuideClient;
use crate::proto::{Point, Rectangle, RouteNote};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LIGHTHOUSE: Point = Point { latitude: 541_000_000, longitude: 101_000_000 };
const OPEN_SEA: Point = Point { latitude: 540_000_000, longitude: 100_000_000 };

/// Makes a call of each kind.
pub async fn visit(channel: Channel) -> Result<()> {
    let transport = channel.info().map_or("nothing", |info| info.transport);
    println!("connected over {transport}");
    let guide = RouteGuideClient::new(channel);
    ask(&guide).await?;
    list(&guide).await?;
    walk(&guide).await?;
    chat(&guide).await
}

/// Unary: what is at this point?
async fn ask(guide: &RouteGuideClient) -> Result<()> {
    for point in [LIGHTHOUSE, OPEN_SEA] {
        let feature = guide.get_feature(point).await?.into_inner();
        let name = if feature.name.is_empty() { "nothing" } else { &feature.name };
        println!("at {} is {name}", show(&point));
    }
    Ok(())
}

/// Server streaming: what is around here?
async fn list(guide: &RouteGuideClient) -> Result<()> {
    let hi = Point { latitude: 541_035_000, longitude: 101_060_000 };
    println!("between {} and {}:", show(&LIGHTHOUSE), show(&hi));
    let rectangle = Rectangle { lo: Some(LIGHTHOUSE), hi: Some(hi) };
    let mut found = guide.list_features(rectangle).await?.into_inner();
    while let Some(feature) = found.message().await? {
        println!("  {}", feature.name);
    }
    Ok(())
}

/// Client streaming: a walk past every place and over the sea.
async fn walk(guide: &RouteGuideClient) -> Result<()> {
    let mut points: Vec<Point> =
        features()?.iter().filter_map(|feature| feature.location).collect();
    points.push(OPEN_SEA);
    let summary = guide.record_route(stream::iter(points)).await?.into_inner();
    println!(
        "walked past {} points with {} places, {} m",
        summary.point_count, summary.feature_count, summary.distance_m
    );
    Ok(())
}

/// Bidirectional: three notes at one place, of which the later ones find the earlier ones, and
/// one elsewhere, which finds none.
async fn chat(guide: &RouteGuideClient) -> Result<()> {
    let note = |location, message: &str| RouteNote {
        location: Some(location),
        message: message.to_owned(),
    };
    let notes = [
        note(LIGHTHOUSE, "the door is locked"),
        note(OPEN_SEA, "wet"),
        note(LIGHTHOUSE, "the key is under the mat"),
        note(LIGHTHOUSE, "what a view"),
    ];
    let mut answers = guide.route_chat(stream::iter(notes)).await?.into_inner();
    while let Some(RouteNote { location, message }) = answers.message().await? {
        println!("a note at {}: {message}", show(&location.unwrap_or_default()));
    }
    Ok(())
}
