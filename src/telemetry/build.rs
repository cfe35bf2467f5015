//! What was built: version and commit, as the build script found them.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was checked out, in hex digits; empty if the build did not know it.
pub const COMMIT: &str = env!("FANOUT_BUILD_COMMIT");
/// Both for people: `0.1.0 (3e52fd4a91b7)`, or the version alone.
pub const VERSION_AND_COMMIT: &str = env!("FANOUT_BUILD_VERSION");
