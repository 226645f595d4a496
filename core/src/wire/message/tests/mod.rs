//! Tests of what goes over the wire: fixed vectors, and whatever chance makes of it.

mod random;
mod vectors;
