//! The business layer of the comment service.
