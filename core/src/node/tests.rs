//! Tests of a whole node that need its insides.
