package dwcp

import (
	"context"
	"errors"
	"strings"
)

// ErrorCode says what kind of error it is: a code of the protocol, or of the same kind for those that arise
// on this side.
type ErrorCode string

// The codes. Newer libraries and nodes may have more.
const (
	// There is no connection, or it was lost; whether the request was executed is not known.
	CodeConnection ErrorCode = "connection"
	// The operating system refused a call on this side.
	CodeIO ErrorCode = "io"
	// A value could not be turned into JSON, or JSON into a value.
	CodeSerialization ErrorCode = "serialization"
	// What fits nowhere else, such as a code that only newer nodes know.
	CodeOther ErrorCode = "other"
	// The handle was made before a fork, by the parent process.
	CodeForked ErrorCode = "forked"
	// The credential is missing, unknown or expired.
	CodeAuth ErrorCode = "auth"
	// The peer sent what the protocol does not allow.
	CodeInvalidMessage ErrorCode = "invalid_message"
	// No VM has this id.
	CodeVMNotFound ErrorCode = "vm_not_found"
	// A named limit is reached.
	CodeResourceLimit ErrorCode = "resource_limit"
	// A migration cannot start, or ended without moving the VM.
	CodeMigration ErrorCode = "migration"
	// The VM or job is in a state in which this cannot be done.
	CodeInvalidOperation ErrorCode = "invalid_operation"
	// The time allowed has passed.
	CodeTimeout ErrorCode = "timeout"
	// A snapshot cannot be taken, read or restored.
	CodeSnapshot ErrorCode = "snapshot"
	// An argument or a field has a value that is never allowed.
	CodeInvalidConfig ErrorCode = "invalid_config"
	// The node cannot do what a field asks for.
	CodeUnsupported ErrorCode = "unsupported"
	// The name or id is taken.
	CodeAlreadyExists ErrorCode = "already_exists"
	// Something other than a VM is not known.
	CodeNotFound ErrorCode = "not_found"
	// The node cannot take the request now; it was not executed.
	CodeUnavailable ErrorCode = "unavailable"
	// The caller took the request back.
	CodeCancelled ErrorCode = "cancelled"
	// The credential is good, but its role does not allow this.
	CodePermissionDenied ErrorCode = "permission_denied"
	// A defect of the library, or a failure of the node's host.
	CodeInternal ErrorCode = "internal"
)

// What errors.Is compares with: one for each code. ErrTimeout errors are context.DeadlineExceeded too, and
// ErrCancelled errors are context.Canceled.
var (
	ErrNotConnected     = errors.New("dwcp: not connected, or the connection was lost")
	ErrIO               = errors.New("dwcp: refused by the operating system")
	ErrSerialization    = errors.New("dwcp: no valid JSON")
	ErrOther            = errors.New("dwcp: other error")
	ErrForked           = errors.New("dwcp: made before a fork")
	ErrAuthFailed       = errors.New("dwcp: authentication failed")
	ErrInvalidMessage   = errors.New("dwcp: invalid message")
	ErrVMNotFound       = errors.New("dwcp: VM not found")
	ErrResourceLimit    = errors.New("dwcp: limit reached")
	ErrMigration        = errors.New("dwcp: migration failed")
	ErrInvalidOperation = errors.New("dwcp: invalid operation")
	ErrTimeout          = errors.New("dwcp: timeout")
	ErrSnapshot         = errors.New("dwcp: snapshot failed")
	ErrInvalidConfig    = errors.New("dwcp: invalid config")
	ErrUnsupported      = errors.New("dwcp: unsupported")
	ErrAlreadyExists    = errors.New("dwcp: already exists")
	ErrNotFound         = errors.New("dwcp: not found")
	ErrUnavailable      = errors.New("dwcp: unavailable")
	ErrCancelled        = errors.New("dwcp: cancelled")
	ErrPermissionDenied = errors.New("dwcp: permission denied")
	ErrInternal         = errors.New("dwcp: internal error")
)

// sentinel gives what errors.Is compares an error of this code with; nil for a code that is not known here.
func (code ErrorCode) sentinel() error {
	switch code {
	case CodeConnection:
		return ErrNotConnected
	case CodeIO:
		return ErrIO
	case CodeSerialization:
		return ErrSerialization
	case CodeOther:
		return ErrOther
	case CodeForked:
		return ErrForked
	case CodeAuth:
		return ErrAuthFailed
	case CodeInvalidMessage:
		return ErrInvalidMessage
	case CodeVMNotFound:
		return ErrVMNotFound
	case CodeResourceLimit:
		return ErrResourceLimit
	case CodeMigration:
		return ErrMigration
	case CodeInvalidOperation:
		return ErrInvalidOperation
	case CodeTimeout:
		return ErrTimeout
	case CodeSnapshot:
		return ErrSnapshot
	case CodeInvalidConfig:
		return ErrInvalidConfig
	case CodeUnsupported:
		return ErrUnsupported
	case CodeAlreadyExists:
		return ErrAlreadyExists
	case CodeNotFound:
		return ErrNotFound
	case CodeUnavailable:
		return ErrUnavailable
	case CodeCancelled:
		return ErrCancelled
	case CodePermissionDenied:
		return ErrPermissionDenied
	case CodeInternal:
		return ErrInternal
	}
	return nil
}

// Error is what every failed call returns; use errors.As to get it, and errors.Is with the Err values to ask
// what kind it is.
type Error struct {
	// What kind of error it is.
	Code ErrorCode
	// What happened, for people; where a field is wrong it begins with its name.
	Message string
	// Whether the same request may succeed later.
	Retryable bool
	// The method that failed, such as "get"; empty where it was none.
	Operation string
	// The id of the VM, migration or snapshot that it concerns; empty where it concerns none.
	Concerns string

	cause error
}

// Error says the operation, the code and the message.
func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString("dwcp: ")
	if e.Operation != "" {
		text.WriteString(e.Operation)
		text.WriteByte(' ')
	}
	if e.Concerns != "" {
		text.WriteString(e.Concerns)
		text.WriteByte(' ')
	}
	text.WriteString(string(e.Code))
	text.WriteString(": ")
	text.WriteString(e.Message)
	return text.String()
}

// Is says whether target is the Err value of the error's code.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case CodeTimeout:
		return target == ErrTimeout || target == context.DeadlineExceeded
	case CodeCancelled:
		return target == ErrCancelled || target == context.Canceled
	}
	return target == e.Code.sentinel()
}

// Unwrap gives what led to the error on this side, such as the cause of a cancelled context, or nil.
func (e *Error) Unwrap() error { return e.cause }

// ConnectionError is an error of code CodeConnection: there is no connection, or it was lost.
type ConnectionError struct{ Err *Error }

// Error is the text of the error in it.
func (e *ConnectionError) Error() string { return e.Err.Error() }

// Unwrap gives the error in it.
func (e *ConnectionError) Unwrap() error { return e.Err }

// typed gives the error as callers get it.
func (e *Error) typed() error {
	if e.Code == CodeConnection {
		return &ConnectionError{e}
	}
	return e
}

// becauseOf makes it the error of a context that has ended.
func (e *Error) becauseOf(ctx context.Context) {
	e.Code, e.Message, e.cause = CodeCancelled, "by the caller", context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Code, e.Message, e.Retryable = CodeTimeout, "the context's deadline has passed", true
	}
	if e.cause != ctx.Err() {
		e.Message += ": " + e.cause.Error()
	}
}

// cancelled is the error of a context that ended before anything was asked.
func cancelled(ctx context.Context, name method) error {
	err := &Error{Operation: name.text()}
	err.becauseOf(ctx)
	return err
}

func notConnected(name method) error {
	return (&Error{
		Code: CodeConnection, Message: "the client is not connected: call Connect", Retryable: true,
		Operation: name.text(),
	}).typed()
}

func invalid(text string) error { return &Error{Code: CodeInvalidConfig, Message: text} }
