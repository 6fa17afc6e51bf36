//! Points and the places at them.

use crate::proto::{Feature, Point, Rectangle};

/// The places, as they are written in a file beside this one.
pub fn features() -> Result<Vec<Feature>, String> {
    include_str!("features.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| feature(line).ok_or_else(|| format!("not a place: {line:?}")))
        .collect()
}

fn feature(line: &str) -> Option<Feature> {
    let (latitude, rest) = line.split_once(' ')?;
    let (longitude, name) = rest.split_once(' ')?;
    let location = Point { latitude: latitude.parse().ok()?, longitude: longitude.parse().ok()? };
    Some(Feature { name: name.to_owned(), location: Some(location) })
}

/// Whether a point lies within a rectangle or on its edge.
pub fn contains(rectangle: &Rectangle, point: &Point) -> bool {
    let (lo, hi) = (rectangle.lo.unwrap_or_default(), rectangle.hi.unwrap_or_default());
    let between = |a: i32, b: i32, x: i32| a.min(b) <= x && x <= a.max(b);
    between(lo.latitude, hi.latitude, point.latitude)
        && between(lo.longitude, hi.longitude, point.longitude)
}

/// Metres between two points, along a great circle (the haversine formula).
pub fn distance_m(from: &Point, to: &Point) -> f64 {
    const EARTH_RADIUS_M: f64 = 6_371_000.0;
    let radians = |degrees: i32| (f64::from(degrees) / 1e7).to_radians();
    let (from_lat, to_lat) = (radians(from.latitude), radians(to.latitude));
    let half_lat = ((to_lat - from_lat) / 2.0).sin();
    let half_lon = ((radians(to.longitude) - radians(from.longitude)) / 2.0).sin();
    let a = half_lat * half_lat + from_lat.cos() * to_lat.cos() * half_lon * half_lon;
    2.0 * EARTH_RADIUS_M * a.sqrt().min(1.0).asin()
}

/// For people: degrees.
pub fn show(point: &Point) -> String {
    let degrees = |units: i32| f64::from(units) / 1e7;
    format!("{:.4}, {:.4}", degrees(point.latitude), degrees(point.longitude))
}
