//! What pods and containers can be, and how they get from one state to the next. Pure.

pub mod container;
pub mod pod;
