//! `dataset` on files of every format, and its rules of selection.
