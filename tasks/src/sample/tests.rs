//! `sample` on scripted and given responses.
