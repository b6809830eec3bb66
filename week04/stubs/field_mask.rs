//! Field mask: an update changes the fields that the client has named. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! Paths
//!
//! - `parse` returns a mask that selects the values at the end of all `paths`.
//!   `find` is given: it returns the steps of a path. The order of the paths
//!   has no effect. A path that is repeated, or that is inside another path of
//!   the mask, adds nothing. Without paths, nothing is selected.
//! - If `find` returns `None` for a path, `parse` returns `UnknownPath` with
//!   the first such path.
//! - The path `*` selects the whole message. It is an `UnknownPath` if it is
//!   not the only path.
//!
//! Updates
//!
//! - `update` returns the `stored` message, in which each selected value is
//!   replaced by the value in `sent`. All other values stay, also fields that
//!   the descriptor does not contain.
//! - A selected value that is not set in `sent` is cleared: a field is then not
//!   set, and an entry is removed from its map. An `optional` field and a
//!   member of a oneof can be set to zero. This is a value like any other.
//! - A path into a message or a map changes only the part at its end. The
//!   message or the map entry stays, even if it has no parts left. If it is not
//!   stored, it is created only if this path sets a part of it.
//! - Setting a member of a oneof clears the other members. Clearing a member
//!   that is not set has no effect.
//! - A repeated field is replaced as a whole, as described below.
//! - `read` returns a message with the selected values of `stored`, and nothing
//!   else. A message or a map entry on the path is in the result only if a
//!   selected part of it is set.
//!
//! Requests
//!
//! - `of_request` parses the paths of the mask. If there is no mask, or it has
//!   no paths, then each populated value of `sent` is selected. A message is
//!   not a populated value, but its fields may be, and so may the entries of a
//!   map. An empty message selects nothing. All other values that are set are
//!   populated: scalars, repeated fields, and the types of the package
//!   `google.protobuf`, which are single values.
//! - `of_json` selects each value of the body that is not an object: also null,
//!   zero, and empty texts and lists. Of an object, it selects only the members,
//!   at any depth. So an empty object selects nothing. Keys may contain any
//!   character, so `quote` the keys in a path.
//! - `of_json` returns `NotAnObject` if there is no body or it is not an object.
//!   If a selected value is not in messages of this type, it returns
//!   `UnknownPath` with the path, whose keys are quoted by `quote`.
//!
//! Field behavior
//!
//! - A client cannot set an output-only field, at any depth. If a message is
//!   both stored and sent, its output-only fields keep the stored values. If it
//!   is only sent, they are not set. If it is cleared, they are cleared with
//!   it. An output-only member of a oneof is cleared if the client sets another
//!   member. `read` does return output-only fields.
//! - `replace_elements` is given, and returns the new elements of a repeated
//!   field. An element that equals a stored one apart from output-only fields
//!   keeps the stored values of these. In other elements they are not set.
//! - If the update would set, change or clear an immutable field of a message
//!   that is stored, it returns `Immutable` with the name of the field. This
//!   includes a member of a oneof that is cleared because another member is
//!   set. An equal value is no change. A new message can have immutable fields,
//!   and a message that is cleared may have had some. Elements of a repeated
//!   field are new messages.
//! - To `read` a message and to `update` it with the result and with the same
//!   mask changes nothing.
//!
//! Help: the module `crate::field_path` is given. Read its documentation first.
//! It treats a message and a map in the same way: both have parts. `parts`
//! returns those that are set, and `take` and `put` change one of them. One
//! recursive function over these is enough for `update` and `read`.

use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::FieldMask;
use serde_json::Value as Json;

use crate::field_path::{MaskError, Selection};

/// The fields of a message that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    selection: Selection,
}

impl Mask {
    /// Returns a mask of `paths`. Without paths, it selects nothing.
    pub fn parse<P: AsRef<str>>(
        _descriptor: &MessageDescriptor,
        _paths: &[P],
    ) -> Result<Self, MaskError> {
        todo!("which paths are wrong, and which one is special?")
    }

    /// Returns the mask of an update request: the paths of `update_mask`, or
    /// the populated fields of `sent` if there are no paths.
    pub fn of_request(
        _update_mask: Option<&FieldMask>,
        _sent: &DynamicMessage,
    ) -> Result<Self, MaskError> {
        todo!("the client sent no mask: which fields does it want to change?")
    }

    /// Returns the mask of a JSON body: the keys that the client has written.
    pub fn of_json(
        _descriptor: &MessageDescriptor,
        _body: Option<&Json>,
    ) -> Result<Self, MaskError> {
        todo!("which paths has the client written?")
    }

    /// Returns a message that has only the selected fields of `stored`.
    pub fn read(&self, _stored: &DynamicMessage) -> DynamicMessage {
        todo!("which stored message would an update turn into the result?")
    }

    /// Returns `stored` with the selected fields of `sent`. Both have the type
    /// of the mask.
    pub fn update(
        &self,
        _stored: &DynamicMessage,
        _sent: &DynamicMessage,
    ) -> Result<DynamicMessage, MaskError> {
        todo!("does the value of each part come from `stored` or from `sent`?")
    }
}
