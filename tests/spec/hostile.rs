//! Hostile input for every method, against the real program over real connections: what it is answered, and that the
//! server is well after each case: it says that it serves, a sound call on another connection works, and its memory is
//! back where it was.

mod fields;
mod floods;
mod http;
mod limits;
mod messages;
mod plan_streams;
mod streams;
mod target;
mod templates;
mod wire;

use target::Target;
