//! The graders of week 4: each test checks one rule of an exercise.
