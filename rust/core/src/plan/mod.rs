//! From the open branches of a tree to the flat [`Plan`](crate::format::plan::Plan) of a step.
