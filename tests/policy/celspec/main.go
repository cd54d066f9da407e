// Prints the simple conformance tests of the CEL specification, an object a line, for src/policy/cel/tests.rs: the
// texts of a case, its variables, and what it wants. Messages are named and not written out: conditions have none.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"cel.dev/expr"
	_ "cel.dev/expr/conformance/proto2"
	_ "cel.dev/expr/conformance/proto3"
	"cel.dev/expr/conformance/test"
	"google.golang.org/protobuf/encoding/prototext"
)

type object = map[string]any

// one holds a value of some kind.
func one(kind string, value any) object { return object{kind: []any{value}} }

// raw is bytes, which JSON has none of.
func raw(text []byte) object {
	numbers := make([]int, len(text))
	for at, own := range text {
		numbers[at] = int(own)
	}
	return object{"$b": numbers}
}

func value(of *expr.Value) any {
	switch kind := of.GetKind().(type) {
	case *expr.Value_NullValue:
		return one("null_value", nil)
	case *expr.Value_BoolValue:
		return one("bool_value", strconv.FormatBool(kind.BoolValue))
	case *expr.Value_Int64Value:
		return one("int64_value", strconv.FormatInt(kind.Int64Value, 10))
	case *expr.Value_Uint64Value:
		return one("uint64_value", strconv.FormatUint(kind.Uint64Value, 10))
	case *expr.Value_DoubleValue:
		return one("double_value", strconv.FormatFloat(kind.DoubleValue, 'g', -1, 64))
	case *expr.Value_StringValue:
		return one("string_value", raw([]byte(kind.StringValue)))
	case *expr.Value_BytesValue:
		return one("bytes_value", raw(kind.BytesValue))
	case *expr.Value_TypeValue:
		return one("type_value", kind.TypeValue)
	case *expr.Value_ListValue:
		values := []any{}
		for _, own := range kind.ListValue.GetValues() {
			values = append(values, value(own))
		}
		return one("list_value", object{"values": values})
	case *expr.Value_MapValue:
		entries := []any{}
		for _, own := range kind.MapValue.GetEntries() {
			entries = append(entries, object{"key": []any{value(own.GetKey())}, "value": []any{value(own.GetValue())}})
		}
		return one("map_value", object{"entries": entries})
	case *expr.Value_ObjectValue:
		return one("object_value", kind.ObjectValue.GetTypeUrl())
	case *expr.Value_EnumValue:
		return one("enum_value", kind.EnumValue.GetType())
	}
	return nil
}

// set is null for what a file leaves out, as the tests ask for it.
func set(flag bool) any {
	if flag {
		return true
	}
	return nil
}

func line(file string, section string, own *test.SimpleTest) object {
	names := []string{}
	for name := range own.GetBindings() {
		names = append(names, name)
	}
	sort.Strings(names)
	bindings := []any{}
	for _, name := range names {
		bound := object{"value": []any{value(own.GetBindings()[name].GetValue())}}
		bindings = append(bindings, object{"key": []any{name}, "value": []any{bound}})
	}
	var container any
	if own.GetContainer() != "" {
		container = own.GetContainer()
	}
	return object{
		"file": file, "section": section, "name": own.GetName(), "expr": own.GetExpr(), "value": value(own.GetValue()),
		"typed": set(own.GetTypedResult() != nil), "err": own.GetEvalError() != nil || own.GetAnyEvalErrors() != nil,
		"unk":       own.GetUnknown() != nil || own.GetAnyUnknowns() != nil,
		"container": container, "bindings": bindings, "check_only": set(own.GetCheckOnly()),
		"disable_macros": set(own.GetDisableMacros()),
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: celspec FOLDER, with the *.textproto of tests/simple/testdata")
		os.Exit(2)
	}
	files, err := filepath.Glob(filepath.Join(os.Args[1], "*.textproto"))
	if err != nil || len(files) == 0 {
		fmt.Fprintln(os.Stderr, "no *.textproto in", os.Args[1])
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	for _, path := range files {
		text, err := os.ReadFile(path)
		var file test.SimpleTestFile
		if err == nil {
			err = prototext.Unmarshal(text, &file)
		}
		for _, section := range file.GetSection() {
			for _, own := range section.GetTest() {
				if err == nil {
					name := strings.TrimSuffix(filepath.Base(path), ".textproto")
					err = lines.Encode(line(name, section.GetName(), own))
				}
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, path, err)
			os.Exit(1)
		}
	}
	if err := out.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
