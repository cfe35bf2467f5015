//! Who is at the other end of a connection, as far as the transport has proved it.

/// What the certificate says that a client has shown, and that one of the server's client authorities has signed: its
/// subject alternative names, as they stand there. An `Arc` of it is in the extensions of every request that comes over
/// such a connection, and of no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// URIs, such as a SPIFFE id.
    pub uris: Vec<String>,
    /// DNS names; one may begin with `*.`.
    pub names: Vec<String>,
}
