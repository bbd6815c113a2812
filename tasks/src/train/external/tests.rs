//! Trainings with a program that stands in for the real ones.
