package dwcp

// #include <stdlib.h>
// #include "dwcp.h"
import "C"

import (
	"runtime"
	"strings"
	"time"
	"unsafe"
)

// nativeNode is a node of the library. It ends when it is freed, and its VMs with it.
type nativeNode struct{ ptr *C.dwcp_node }

func newNativeNode(ptr *C.dwcp_node) *nativeNode {
	n := &nativeNode{ptr}
	runtime.SetFinalizer(n, func(n *nativeNode) { C.dwcp_node_free(n.ptr) })
	return n
}

func (n *nativeNode) name() string {
	defer runtime.KeepAlive(n)
	return C.GoString(C.dwcp_node_name(n.ptr))
}

func (n *nativeNode) uuid() string {
	defer runtime.KeepAlive(n)
	return C.GoString(C.dwcp_node_uuid(n.ptr))
}

func (n *nativeNode) address() string {
	defer runtime.KeepAlive(n)
	return C.GoString(C.dwcp_node_address(n.ptr))
}

func (n *nativeNode) client() (*native, error) {
	defer runtime.KeepAlive(n)
	var ptr *C.dwcp_client
	var fail *C.dwcp_error
	if C.dwcp_node_client(n.ptr, &ptr, &fail) != C.DWCP_OK {
		return nil, takeError(fail).typed()
	}
	return newNative(ptr), nil
}

// with runs something with texts for C, the last of which is NULL where it is empty.
func (n *nativeNode) with(texts []string, run func(chars []*C.char, fail **C.dwcp_error) C.int32_t) error {
	defer runtime.KeepAlive(n)
	chars := make([]*C.char, len(texts))
	for i, text := range texts {
		if strings.IndexByte(text, 0) >= 0 {
			return invalid("an argument has a NUL")
		}
		if i == 2 && text == "" {
			continue
		}
		chars[i] = C.CString(text)
		defer C.free(unsafe.Pointer(chars[i]))
	}
	var fail *C.dwcp_error
	if run(chars, &fail) != C.DWCP_OK {
		return takeError(fail).typed()
	}
	return nil
}

func (n *nativeNode) addPeer(name, address, credential string) error {
	return n.with([]string{name, address, credential}, func(chars []*C.char, fail **C.dwcp_error) C.int32_t {
		return C.dwcp_node_add_peer(n.ptr, chars[0], chars[1], chars[2], fail)
	})
}

func (n *nativeNode) drain() error {
	return n.with(nil, func(_ []*C.char, fail **C.dwcp_error) C.int32_t {
		return C.dwcp_node_drain(n.ptr, fail)
	})
}

func (n *nativeNode) keys(read func([]byte) error) error {
	var document *C.dwcp_document
	err := n.with(nil, func(_ []*C.char, fail **C.dwcp_error) C.int32_t {
		return C.dwcp_node_keys(n.ptr, &document, fail)
	})
	if err != nil {
		return err
	}
	defer C.dwcp_document_free(document)
	json := C.dwcp_document_bytes(document)
	return read(unsafe.Slice((*byte)(json.data), int(json.len)))
}

// keyTimeout is how long storing a key may take.
const keyTimeout = 30 * time.Second

func (n *nativeNode) addKey(name, key, role string) error {
	return n.with([]string{name, key, role}, func(chars []*C.char, fail **C.dwcp_error) C.int32_t {
		return C.dwcp_node_add_key(n.ptr, chars[0], chars[1], chars[2], millis(keyTimeout), fail)
	})
}

func (n *nativeNode) removeKey(name string) error {
	return n.with([]string{name}, func(chars []*C.char, fail **C.dwcp_error) C.int32_t {
		return C.dwcp_node_remove_key(n.ptr, chars[0], millis(keyTimeout), fail)
	})
}
