//! The map and its block.

use super::*;
