//! A server of our own, with every fault a server may have.
